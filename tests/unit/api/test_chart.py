"""The chart without Helm: every value documented and in the schema, roles without wildcards, page up to date."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "charts" / "sqlitecluster"


def tool() -> Any:
    spec = importlib.util.spec_from_file_location("chart_tool", ROOT / "tools" / "chart.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def names(schema: dict[str, Any], prefix: str = "") -> set[str]:
    found = set()
    for name, below in schema.get("properties", {}).items():
        found |= names(below, f"{prefix}{name}.") if "properties" in below else {prefix + name}
    return found


def test_the_page_of_values_is_up_to_date() -> None:
    assert (ROOT / "docs" / "chart.md").read_text() == tool().table(), "run `.venv/bin/python tools/chart.py`"


def test_every_value_is_documented() -> None:
    text = (CHART / "values.yaml").read_text()
    known = tool().documented(text)
    silent = [path for path, _ in tool().leaves(yaml.safe_load(text), known) if path not in known]

    assert not silent
    assert all(comment.endswith(".") for comment in known.values())


def test_the_schema_of_values_has_exactly_the_values() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    text = (CHART / "values.yaml").read_text()
    values = {path for path, _ in tool().leaves(yaml.safe_load(text), {})}
    whole = {path.partition(".")[0] for path in values}

    assert names(schema) - {"global"} == {"resources.requests", "resources.limits"} | {
        path for path in values if not path.startswith("resources.")
    }
    assert set(schema["properties"]) == whole | {"global"}
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize("name", ["", "a", "sqlite-2", "a" * 40])
def test_a_name_of_which_a_service_can_be_made_is_accepted(name: str) -> None:
    assert is_accepted(name)


@pytest.mark.parametrize("name", ["2nd", "sqlite.cluster", "-a", "a-", "A", "a" * 41])
def test_a_name_of_which_no_service_can_be_made_is_refused(name: str) -> None:
    assert not is_accepted(name)


def is_accepted(name: str) -> bool:
    """What the schema says about ``fullnameOverride``; Helm's patterns are anchored as they are written."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["fullnameOverride"]
    return len(name) <= schema["maxLength"] and re.search(schema["pattern"], name) is not None


def test_no_role_of_the_chart_has_a_wildcard_or_may_run_commands_in_pods() -> None:
    for path in CHART.rglob("*"):
        if path.suffix in (".yaml", ".tpl"):
            text = path.read_text()
            assert not re.search(r"""(verbs|resources|apiGroups): \[[^]]*['"]\*""", text), path.name
            assert "pods/exec" not in text, path.name


def test_secrets_are_never_listed() -> None:
    rules = re.findall(
        r"resources: \[secrets\]\n(?:  resourceNames: .*\n)?  verbs: \[(.*)\]",
        "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file()),
    )

    assert len(rules) == 3
    assert not any(verb in rule for rule in rules for verb in ("list", "watch", "delete"))


def test_the_chart_and_the_package_have_the_same_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)

    assert project is not None
    assert chart["appVersion"] == chart["version"] == project[1]
