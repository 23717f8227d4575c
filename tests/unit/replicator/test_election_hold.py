"""Pledges between nodes: on disk before they are answered, kept by the next process, asked of the right pods."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sqlitecluster.config.model import LeaseTimes
from sqlitecluster.election import Elector, ElectorSettings, Holder
from sqlitecluster.election import messages as m
from sqlitecluster.errors import FormatError
from sqlitecluster.kubeapi import Pod
from sqlitecluster.replicator.election_hold import Holds
from sqlitecluster.store.disk import Buffer, Disk
from sqlitecluster.store.node import NodeStore
from support.electionbench import ME, lease, peer

ASKING = {"holder": "c-1_u1", "epoch": 3, "lengthNs": 12_000_000_000}


class Watched(Disk):
    """Notes what is durable; can fail."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.fails = False

    def write_file(self, path: Path, chunks: Iterable[Buffer], *, sync_dir: bool = True) -> None:
        if self.fails:
            raise OSError(5, "Input/output error")
        super().write_file(path, chunks, sync_dir=sync_dir)
        self.written.append(path.name)


class Other:
    """The rest of a node, and its peers."""

    def __init__(self, folder: Path, *, hold: bool = False) -> None:
        self.disk = Watched()
        self.store = NodeStore(folder, disk=self.disk)
        self.replicator: Any = SimpleNamespace(epoch=3, services=SimpleNamespace(store=self.store))
        self.elector = Elector(ElectorSettings(me=ME, times=LeaseTimes(), hold=hold), 3)
        self.pods: list[Pod] = []
        self.answers: dict[str, object] = {}
        self.events: list[m.Event] = []
        self.me = ME.pod
        self.holds = Holds(self.replicator, self, self.elector, self.events.append)  # type: ignore[arg-type]

    async def ask(self, _epoch: int) -> tuple[tuple[m.NodeState, ...], int]:
        return (peer("c-1"), peer("c-2", never_leads=True)), 2

    async def send(self, pod: Pod, path: str, value: object) -> object:
        assert path == "/pledge"
        assert value == {"holder": str(ME), "epoch": 3, "lengthNs": 12}
        return self.answers.get(pod.name)

    def post(self, body: bytes) -> dict[str, Any]:
        async def read(_limit: int) -> bytes:
            return body

        request: Any = SimpleNamespace(content=SimpleNamespace(read=read))
        answer = asyncio.run(self.holds.pledge(request))
        return dict(json.loads(answer.text or ""))


def test_a_pledge_is_on_disk_before_it_is_answered(tmp_path: Path) -> None:
    node = Other(tmp_path)
    assert node.post(json.dumps(ASKING).encode()) == {"who": str(ME), "pledged": True, "why": ""}
    assert node.disk.written[-1] == "pledge"
    node.store.close()


def test_a_disk_that_fails_gives_no_answer_and_binds_all_the_same(tmp_path: Path) -> None:
    node = Other(tmp_path)
    node.disk.fails = True
    with pytest.raises(OSError, match="Input/output"):
        node.post(json.dumps(ASKING).encode())
    assert node.elector.pledge is not None
    node.store.close()


def test_the_next_process_keeps_what_this_one_promised(tmp_path: Path) -> None:
    node = Other(tmp_path)
    node.post(json.dumps(ASKING).encode())
    given = node.elector.pledge
    node.store.close()
    after = Other(tmp_path)
    assert given is not None
    assert after.elector.pledge == given
    assert after.holds.info()["pledge"]["holder"] == "c-1_u1"
    after.store.close()


def test_a_refusal_says_why_and_writes_nothing(tmp_path: Path) -> None:
    node = Other(tmp_path)
    node.replicator.epoch = 9
    before = list(node.disk.written)
    answer = node.post(json.dumps(ASKING).encode())
    assert answer == {"who": str(ME), "pledged": False, "why": "it knows a newer epoch than 3"}
    assert node.disk.written == before
    assert node.elector.pledge is None
    node.store.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"nonsense",
        b"{}",
        json.dumps(ASKING | {"epoch": 0}).encode(),
        json.dumps(ASKING | {"epoch": 1 << 61}).encode(),
        json.dumps(ASKING | {"lengthNs": 0}).encode(),
        json.dumps(ASKING | {"lengthNs": 10**18}).encode(),
        json.dumps(ASKING | {"epoch": "x"}).encode(),
    ],
)
def test_what_is_no_question_is_an_error(tmp_path: Path, body: bytes) -> None:
    node = Other(tmp_path)
    with pytest.raises(FormatError):
        node.post(body)
    assert node.elector.pledge is None
    node.store.close()


def test_who_must_agree_is_everybody_else_but_those_that_never_lead(tmp_path: Path) -> None:
    node = Other(tmp_path, hold=True)
    node.pods = [Pod(f"c-{n}", f"u{n}", "10.0.0.9", {}) for n in range(4)]
    node.elector.seen.record = lease(Holder("c-0", "u0"), 3, barred=frozenset({"c-3"}))

    async def once() -> None:
        await node.holds._look()
        node.holds._tell()
        node.holds._tell()

    asyncio.run(once())
    assert [event.others for event in node.events if isinstance(event, m.OthersKnown)] == [frozenset({"c-1_u1"})]
    node.store.close()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "it does not answer"),
        ([], "it does not answer"),
        ({"who": "c-1_u9", "pledged": True}, "it does not answer"),
        ({"who": "c-1_u1", "pledged": False, "why": "busy"}, "busy"),
        ({"who": "c-1_u1", "pledged": "yes", "why": "x"}, "x"),
        ({"who": "c-1_u1", "pledged": True}, ""),
    ],
)
def test_only_the_word_of_the_very_pod_that_was_asked_counts(tmp_path: Path, answer: object, why: str) -> None:
    node = Other(tmp_path, hold=True)
    node.pods = [Pod("c-1", "u1", "10.0.0.9", {})]
    node.answers["c-1"] = answer
    node.holds._tell()
    asyncio.run(node.holds.ask(m.AskPledges(3, 12, ("c-1_u1", "c-9_u9"))))
    found = {event.who: event.why for event in node.events if isinstance(event, m.PledgeAnswered)}
    assert found == {"c-1_u1": why, "c-9_u9": "it does not answer"}
    node.store.close()
