"""Zones of pods, as lists of pods bring them."""

from __future__ import annotations

from sqlitecluster.kubeapi import Pod
from sqlitecluster.kubeapi.client import ZONE, _pod
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
