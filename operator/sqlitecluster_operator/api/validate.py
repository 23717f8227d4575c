"""The rules of the CRD again, in Python: each reconcile runs them first.

An API server without CEL, a CRD of another version or an object from a backup may bring something illegal; it is
reported as ``Ready=False, reason=InvalidSpec`` and never touches a running cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from sqlitecluster_operator.api.base import Model, wire_name
from sqlitecluster_operator.api.cluster import SQLiteCluster


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an object."""

    path: str
    """Where, such as ``spec.storage.size``."""
    message: str
    """What, and what would be right."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def parse(obj: Mapping[str, Any]) -> SQLiteCluster:
    """The object as the API server sent it.

    Raises:
        pydantic.ValidationError: it does not fit the schema; ``validate`` says so readably.
    """
    return SQLiteCluster.model_validate(obj)


def validate(obj: Mapping[str, Any], old: Mapping[str, Any] | None = None) -> list[Problem]:
    """Everything that is wrong with an object; with ``old``, also with the change from it."""
    try:
        new = parse(obj)
    except ValidationError as error:
        return [_schema_problem(item) for item in error.errors(include_url=False)]
    before: SQLiteCluster | None = None
    if old is not None:
        try:
            before = parse(old)
        except ValidationError:
            before = None  # it was never legal: nothing of it can have been built
    return list(_problems(new, before, ""))


def _schema_problem(item: Any) -> Problem:
    path = ""
    for part in item["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    message = str(item["msg"])
    return Problem(path.lstrip("."), message[:1].lower() + message[1:])


def _problems(node: Model, old: Model | None, path: str) -> Iterator[Problem]:
    for rule in node.RULES:
        if rule.transition and old is None:
            continue
        if not rule.check(node, old):
            yield Problem(".".join(part for part in (path, rule.field) if part), rule.message)
    for name in type(node).model_fields:
        value = getattr(node, name)
        below = f"{path}.{wire_name(name)}".lstrip(".")
        before = getattr(old, name, None)
        if isinstance(value, Model):
            yield from _problems(value, before if isinstance(before, Model) else None, below)
        elif isinstance(value, list):
            yield from _list_problems(value, before if isinstance(before, list) else [], below)


def _list_problems(items: list[Any], old: list[Any], path: str) -> Iterator[Problem]:
    by_name: dict[str, Model] = {item.name: item for item in old if isinstance(item, Model) and hasattr(item, "name")}
    for at, item in enumerate(items):
        if isinstance(item, Model):
            yield from _problems(item, by_name.get(getattr(item, "name", "")), f"{path}[{at}]")
