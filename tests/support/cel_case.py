"""One case of the API's rules, and how its objects are written down; ``cel_cases`` is the table.

A change is merged into ``base()``; None removes a key. ``before`` makes it an update.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Final

Change = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """One rule."""

    name: str
    says: str
    """Part of the message of the refusal."""
    accept: Change
    reject: Change
    field: str
    """The path that the refusal names."""
    before: Change | None = None
    """For transition rules: the object that exists before."""
    schema: bool = False
    """Refused by the schema itself (type, range, pattern); the API server and Python have words of their own."""


def base(name: str = "notes") -> Change:
    """The short object of the documentation."""
    return {
        "apiVersion": "sqlitecluster.dev/v1alpha1",
        "kind": "SQLiteCluster",
        "metadata": {"name": name},
        "spec": {"instances": 3, "storage": {"size": "1Gi"}, "template": {"spec": {"containers": [APP]}}},
    }


def merged(target: Change, change: Change) -> Change:
    """The object with a change; mappings are merged, everything else is replaced, None removes."""
    result = copy.deepcopy(target)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


APP: Final = {"name": "app", "image": "example/notes:1", "env": [{"name": "DATABASE_URL", "value": "/data/notes.db"}]}


def spec(**fields: Any) -> Change:
    """A change of the spec."""
    return {"spec": fields}


def pod(**fields: Any) -> Change:
    """A change of the pod template."""
    return spec(template={"spec": fields})


def app(**fields: Any) -> Change:
    """A change of the program's container."""
    return pod(containers=[{**APP, **fields}])


def primary(**fields: Any) -> Change:
    """A change of spec.primary."""
    return spec(primary=fields)


def objects(case: Case) -> tuple[Change | None, Change, Change]:
    """(before, accepted, refused) of a case."""
    before = None if case.before is None else merged(base(), case.before)
    start = base() if before is None else before
    return before, merged(start, case.accept), merged(start, case.reject)
