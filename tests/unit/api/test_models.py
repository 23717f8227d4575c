"""The API's values: defaults, texts for times and sizes, unknown fields."""

from __future__ import annotations

import pytest

from sqlitecluster_operator.api import SQLiteClusterStatus, duration_seconds, parse, quantity_value, validate
from support import cel_case


def test_the_short_object_is_complete() -> None:
    cluster = parse(cel_case.base())

    assert validate(cel_case.base()) == []
    assert cluster.spec.mount.path == "/data"
    assert cluster.spec.primary.lease.lease_duration_seconds == 12
    assert cluster.spec.services.rw.enabled


def test_fields_of_containers_that_the_operator_does_not_know_are_kept() -> None:
    template = parse(cel_case.base()).spec.template
    assert template is not None

    container = template.spec.model_dump(by_alias=True, exclude_none=True)["containers"][0]

    assert container["env"] == [{"name": "DATABASE_URL", "value": "/data/notes.db"}]


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("1m30s", 90), ("1.5h", 5400), ("0s", 0), ("168h", 604800)]
)
def test_durations(text: str, seconds: float) -> None:
    assert duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "s", "1d", "-1s", "1s 2s", "1sx"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        duration_seconds(text)


@pytest.mark.parametrize(
    ("text", "value"), [("1Gi", 1 << 30), ("500m", 0.5), ("2", 2), ("1k", 1000), ("1.5Ki", 1536), ("1E", 10**18)]
)
def test_quantities(text: str, value: float) -> None:
    assert float(quantity_value(text)) == value


@pytest.mark.parametrize("text", ["", "1GB", "Gi", "-1", "1 Gi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="no quantity"):
        quantity_value(text)


def test_an_object_of_before_that_was_illegal_does_not_hide_what_is_wrong_now() -> None:
    before = cel_case.merged(cel_case.base(), cel_case.spec(instances=0))
    now = cel_case.merged(cel_case.base(), cel_case.spec(storage={"size": "1Mi"}))

    assert [problem.path for problem in validate(now, before)] == ["spec.storage.size"]


def test_several_problems_are_all_said() -> None:
    wrong = cel_case.spec(storage={"size": "1Mi"}, retention={"ltx": "1s"}, fence=["x-0"])
    paths = {problem.path for problem in validate(cel_case.merged(cel_case.base(), wrong))}

    assert paths == {"spec.storage.size", "spec.retention.ltx", "spec.fence"}


def test_a_status_goes_to_json_and_back() -> None:
    status = SQLiteClusterStatus.model_validate(
        {"clusterID": "ab", "handoff": {"id": "1", "from": "notes-0", "to": "*", "writeGapMillis": 7}}
    )
    written = status.model_dump(by_alias=True, exclude_none=True)

    assert written["clusterID"] == "ab"
    assert written["handoff"]["from"] == "notes-0"
    assert SQLiteClusterStatus.model_validate(written) == status
