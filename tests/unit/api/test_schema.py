"""The generated files: up to date, readable, and structural as the API server demands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from sqlitecluster_operator.api.generate import generated
from sqlitecluster_operator.api.schema import crd, openapi_schema

Schema = dict[str, Any]
FIELDS = (
    "instances template runOn mount databases bootstrap replication primary replicaWrites retention storage "
    "updateStrategy disruptionBudget topologySpread affinity services tls sidecar monitoring fence hibernate suspend"
)


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path or ".", schema
    for name, below in schema.get("properties", {}).items():
        yield from nodes(below, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


ALL = dict(nodes(openapi_schema()))


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Any) -> None:
    assert path.read_text() == generated()[path], "run `python -m sqlitecluster_operator.api.generate`"


def test_the_spec_has_the_fields_of_this_version_and_no_others() -> None:
    assert " ".join(ALL[".spec"]["properties"]) == FIELDS


def test_every_field_has_a_description_that_reads_well() -> None:
    for path, node in ALL.items():
        if path.endswith("[]") or path == ".metadata":
            continue
        text = node.get("description", "")
        assert (len(text) > 8 and text[0].isupper()) or text.startswith(("<name>", "http", "true", "handoff")), path
        assert text.endswith((".", ")")), path
        assert "\n" not in text, path


def test_the_schema_is_structural() -> None:
    for path, node in ALL.items():
        assert "type" in node, path
        assert not node.keys() & {"$ref", "anyOf", "allOf", "oneOf", "title", "const", "definitions"}, path


def test_every_list_has_a_limit_and_says_how_it_is_merged() -> None:
    for path, node in ALL.items():
        if node["type"] == "array":
            assert "maxItems" in node, path
            assert "x-kubernetes-list-type" in node, path


def test_texts_in_the_spec_have_a_limit() -> None:
    unlimited = [
        path
        for path, node in ALL.items()
        if path.startswith(".spec") and node["type"] == "string" and not node.keys() & {"maxLength", "enum"}
    ]

    assert unlimited == [
        ".spec.template.metadata.annotations[]",
        ".spec.services.rw.template.metadata.annotations[]",
        ".spec.services.ro.template.metadata.annotations[]",
        ".spec.services.r.template.metadata.annotations[]",
    ]


def test_a_status_is_never_filled_in_by_the_api_server() -> None:
    assert not [path for path, node in ALL.items() if path.startswith(".status") and "default" in node]


def test_both_uses_of_the_demote_delay_are_described() -> None:
    text = ALL[".spec.primary.demoteDelay"]["description"]

    assert "transactions" in text and "may not lead" in text


def test_the_chart_keeps_the_definition_and_the_plain_file_says_nothing_of_helm() -> None:
    assert crd(keep=True)["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in crd()["metadata"]


def test_names_and_subresources() -> None:
    spec = crd()["spec"]

    assert spec["names"]["shortNames"] == ["sqc", "sqlite"]
    assert spec["names"]["categories"] == ["all", "databases"]
    assert spec["versions"][0]["subresources"]["scale"]["labelSelectorPath"] == ".status.selector"
