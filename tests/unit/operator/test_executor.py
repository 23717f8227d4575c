"""What the executor does about objects that nobody watches, and what it remembers of them."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile.actions import ABSENT, Action, Apply, Memory, RemoveUnwatched
from sqlitecluster_operator.runtime.api import API, APIError, Forbidden, NotFound, Unavailable
from sqlitecluster_operator.runtime.executor import Executor, Outcome
from sqlitecluster_operator.runtime.kinds import Kind
from sqlitecluster_operator.runtime.store import Key, Store
from support import operator_cases as cases

MONITOR = ("PodMonitor", "notes")
APPLIED = Memory(applied={MONITOR: "digest"})
OURS = {"metadata": {"name": "notes", "uid": "m", "ownerReferences": [names.owner_reference(cases.cluster())]}}
THEIRS: dict[str, Any] = {"metadata": {"name": "notes", "uid": "x"}}


class Server:
    """An API server with at most one object."""

    def __init__(self, found: dict[str, Any] | APIError, answer: APIError | None = None) -> None:
        self._found = found
        self._answer = answer
        self.deleted: list[str] = []

    async def get(self, _kind: Kind, _namespace: str, _name: str) -> dict[str, Any]:
        if isinstance(self._found, APIError):
            raise self._found
        return self._found

    async def delete(self, kind: Kind, _namespace: str, name: str, uid: str) -> dict[str, Any]:
        self.deleted.append(f"{kind.name} {name} {uid}")
        return self._done({})

    async def apply(self, _kind: Kind, body: dict[str, Any]) -> dict[str, Any]:
        return self._done(body)

    def _done(self, body: dict[str, Any]) -> dict[str, Any]:
        if self._answer is not None:
            raise self._answer
        return body


def run(server: Server, action: Action, memory: Memory = APPLIED) -> Outcome:
    executor = Executor(cast(API, server), Store(), Key("shop", "notes"), cases.UID)
    return asyncio.run(executor.run((action,), memory))


def test_our_pod_monitor_is_removed_once() -> None:
    server = Server(OURS)
    outcome = run(server, RemoveUnwatched(*MONITOR))

    assert server.deleted == ["PodMonitor notes m"]
    assert outcome.applied == {MONITOR: ABSENT}


@pytest.mark.parametrize("found", [THEIRS, NotFound("no such kind"), Forbidden("no right")])
def test_what_is_not_ours_is_left_alone_and_not_looked_for_again(found: dict[str, Any] | APIError) -> None:
    server = Server(found)
    outcome = run(server, RemoveUnwatched(*MONITOR), Memory())

    assert server.deleted == []
    assert outcome.applied == {MONITOR: ABSENT}
    assert (outcome.foreign, outcome.refusals, outcome.error) == ({}, {}, None)


def test_without_an_answer_it_is_looked_for_again_and_nothing_else_waits() -> None:
    outcome = run(Server(Unavailable("later")), RemoveUnwatched(*MONITOR), Memory())

    assert (outcome.applied, outcome.error) == ({}, None)


def test_a_removal_that_is_not_allowed_is_told() -> None:
    outcome = run(Server(OURS, Forbidden("no right")), RemoveUnwatched(*MONITOR))

    assert outcome.refusals == {"PodMonitor notes": "no right"}
    assert outcome.applied == {MONITOR: "digest"}


def test_what_was_applied_without_an_answer_may_be_there() -> None:
    meta = {"name": "notes", "namespace": "shop", "annotations": {names.ANNOTATION_APPLIED: "digest"}}
    apply = Apply({"kind": "PodMonitor", "metadata": meta})
    outcome = run(Server(NotFound("none"), Unavailable("later")), apply, Memory(applied={MONITOR: ABSENT}))

    assert outcome.applied == {}
    assert run(Server(NotFound("none")), apply, Memory()).applied == {MONITOR: "digest"}
