"""Zones of pods, as lists of pods bring them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from sqlitecluster.config.model import Replication
from sqlitecluster.kubeapi import Pod
from sqlitecluster.kubeapi.client import ZONE, _pod
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.quorum import QuorumView
from sqlitecluster.replicator.zones import Zones


def pods(**zones: str | None) -> list[Pod]:
    """Pods as the API lists them."""
    rows = []
    for name, zone in zones.items():
        notes = {} if zone is None else {"annotations": {ZONE: zone}}
        rows.append(_pod({"metadata": {"name": name, **notes}}))
    return rows


def test_what_the_operator_told_goes_before_the_configuration() -> None:
    zones = Zones()
    assert zones.of("a", "?") == "?"

    zones.seen(pods(a="r1", b=None))

    assert (zones.of("a", "?"), zones.of("b", "?"), zones.of("c", "")) == ("r1", "?", "")


def test_what_is_not_told_any_more_is_not_known_any_more() -> None:
    zones = Zones()
    zones.seen(pods(a="r1"))
    zones.seen(pods(a=None))

    assert zones.of("a", "?") == "?"


def test_only_a_change_is_told() -> None:
    told: list[str] = []
    zones = Zones()
    zones.on_change = lambda: told.append(zones.of("a", ""))

    for zone in ("r1", "r1", "r2", None):
        zones.seen(pods(a=zone))

    assert told == ["r1", "r2", ""]


def view(acks: int) -> tuple[QuorumView, Zones]:
    """The count of a primary whose configuration says ``spread``."""
    config = SimpleNamespace(name="p", replication=Replication(mode="Quorum", acks=acks, zone="?"), election=None)
    zones = Zones()
    node: Any = SimpleNamespace(config=config, zones=zones)
    made = QuorumView(node)
    zones.on_change = made.zones_changed
    made.begin({"a.db": Position(7, 1)}, {})
    for number, name in enumerate(("a", "b"), 1):
        made.join(number, name, "?")
        made.acknowledged(number, "a.db", Position(7, 1))
    return made, zones


def test_replicas_that_nobody_told_a_zone_never_count_apart() -> None:
    made, zones = view(acks=1)
    assert not made.enough_without(0), "of the primary's own zone nothing counts"

    zones.seen(pods(p="r1", a="r2"))
    assert made.enough_without(0)

    made, zones = view(acks=2)
    zones.seen(pods(p="r1", c="r2"))  # a and b are both still without one
    assert not made.enough_without(0)

    zones.seen(pods(p="r1", a="r2", b="r3"))
    assert made.enough_without(0)

    zones.seen(pods(p="r1", a="r2", b="r2"))
    assert not made.enough_without(0)
