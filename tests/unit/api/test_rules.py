"""Every rule of the API in Python: what it accepts, what it refuses, and that the table knows them all."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election.core import ElectorSettings
from sqlitecluster.election.record import Holder
from sqlitecluster_operator.api import parse, validate
from sqlitecluster_operator.api.base import Rule
from sqlitecluster_operator.api.cluster import SQLiteCluster
from sqlitecluster_operator.api.schema import models
from sqlitecluster_operator.objects.nodeconfig import node_config
from support import cel_case, cel_cases
from support.cel_case import Case

CASES = {case.name: case for case in cel_cases.CASES}


def all_rules() -> list[Rule]:
    return [rule for model in models(SQLiteCluster) for rule in model.RULES]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_object_that_keeps_the_rule_is_accepted(case: Case) -> None:
    before, accepted, _ = cel_case.objects(case)

    assert validate(accepted, before) == []


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_object_that_breaks_the_rule_is_refused(case: Case) -> None:
    before, _, refused = cel_case.objects(case)
    problems = validate(refused, before)

    assert case.field in [problem.path for problem in problems]
    if not case.schema:
        assert any(case.says in problem.message for problem in problems if problem.path == case.field)


def test_the_table_has_every_rule() -> None:
    said = [case.says for case in cel_cases.CASES if not case.schema]
    missing = [rule.message for rule in all_rules() if not any(text in rule.message for text in said)]

    assert not missing


def test_the_table_has_each_case_once() -> None:
    assert len(CASES) == len(cel_cases.CASES)


def test_what_exists_is_legal_before_an_update() -> None:
    for case in cel_cases.CASES:
        before, _, _ = cel_case.objects(case)
        assert before is None or validate(before) == [], case.name


def test_messages_are_sentences_for_people() -> None:
    for rule in all_rules():
        assert 10 < len(rule.message) <= 160, rule.message
        assert not rule.message.endswith("."), rule.message
        assert "self" not in rule.message, rule.message


def elects(body: dict[str, Any]) -> str:
    """Why a sidecar does not start with an object's lease times; empty when it does."""
    lease = node_config(parse(body))["election"]["lease"]
    times = LeaseTimes(
        duration_s=lease["durationS"],
        renew_deadline_s=lease["renewDeadlineS"],
        retry_period_s=lease["retryPeriodS"],
        margin_ms=lease["marginMs"],
    )
    return ElectorSettings(me=Holder("notes-0", "uid"), times=times).problem()


LEASES = [name for name in CASES if name.startswith(("lease", "fence-margin"))]


@pytest.mark.parametrize("name", LEASES)
def test_the_sidecar_starts_with_what_the_rules_accept(name: str) -> None:
    assert elects(cel_case.objects(CASES[name])[1]) == ""


def test_the_rules_accept_no_lease_with_which_the_sidecar_does_not_start() -> None:
    assert elects(cel_case.base()) == ""
    accepted = 0
    for deadline, retry, margin in itertools.product((1, 2, 3, 7, 11), (1, 2, 3, 4, 5), (0, 999, 1000, 1001, 4999)):
        times = {"lease": {"renewDeadlineSeconds": deadline, "retryPeriodSeconds": retry}}
        body = cel_case.merged(cel_case.base(), cel_case.primary(**times, fence={"marginMillis": margin}))
        if not validate(body):
            accepted += 1
            assert elects(body) == "", times
    assert accepted
