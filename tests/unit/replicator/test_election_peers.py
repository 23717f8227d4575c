"""Whom a node asks: a list of pods can be older than the pods."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sqlitecluster.election.messages import NodeState
from sqlitecluster.kubeapi import Pod
from sqlitecluster.replicator.election_peers import Peers
from sqlitecluster.replicator.zones import Zones
from support.electionbench import peer


class Api:
    """Lists the pods that there are by now."""

    def __init__(self, pods: list[Pod]) -> None:
        self.pods, self.asked = pods, 0

    async def list_pods(self, _labels: dict[str, str]) -> list[Pod]:
        self.asked += 1
        return self.pods


def peers(known: list[Pod], living: list[Pod]) -> tuple[Peers, Api]:
    election = SimpleNamespace(cluster="c")
    config = SimpleNamespace(election=election, listen=SimpleNamespace(peers="0.0.0.0:20202"))
    replicator: Any = SimpleNamespace(services=SimpleNamespace(config=config, zones=Zones()))
    elector: Any = SimpleNamespace(me=SimpleNamespace(pod="c-0"))
    api = Api(living)
    made = Peers(replicator, api, elector, lambda _ready: None)  # type: ignore[arg-type]
    made._pods = known

    async def answer(pod: Pod, _epoch: int) -> NodeState:
        return peer(pod.name)

    made._ask_one = answer  # type: ignore[method-assign]
    return made, api


def pod(name: str, ip: str = "10.0.0.9") -> Pod:
    return Pod(name=name, uid=f"u-{name}", ip=ip, labels={})


@pytest.mark.parametrize(
    "known",
    [[], [pod("c-0")], [pod("c-0"), pod("c-1", ip="")], [pod("c-1", ip="")]],
    ids=["nobody", "only-itself", "without-address", "another-without-address"],
)
def test_a_pod_that_is_younger_than_the_list_is_found(known: list[Pod]) -> None:
    asked, _api = peers(known, [pod("c-0"), pod("c-1")])
    answers, others = asyncio.run(asked.ask(0))
    assert ([answer.pod for answer in answers], others) == (["c-1"], 1)


def test_a_list_that_is_good_is_not_asked_for_again() -> None:
    asked, api = peers([pod("c-0"), pod("c-1")], [])
    answers, _others = asyncio.run(asked.ask(0))
    assert [answer.pod for answer in answers] == ["c-1"] and api.asked == 0


def test_an_election_always_begins_with_a_fresh_list() -> None:
    asked, api = peers([pod("c-0"), pod("c-1")], [pod("c-0"), pod("c-2")])
    answers, _others = asyncio.run(asked.ask(4))
    assert [answer.pod for answer in answers] == ["c-2"] and api.asked == 1
