"""Peers of another cluster, of an older epoch, or this node itself are refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sqlitecluster.errors import ClusterMismatch, FormatError, StreamError, WireError
from sqlitecluster.replication.lineage import Hello, check_cluster_id, check_epoch, make_cluster_id, meet, negotiate

OWN = Hello("LFSC0123456789ABCDEF", 1, "n1", 3)
PEER = Hello("LFSC0123456789ABCDEF", 2, "n2", 3)


def test_a_hello_survives_the_wire() -> None:
    assert Hello.from_wire(OWN.to_wire()) == OWN


def test_a_made_cluster_id_is_legal() -> None:
    assert check_cluster_id(make_cluster_id(b"\x01\x23\x45\x67\x89\xab\xcd\xef")) == "LFSC0123456789ABCDEF"


@pytest.mark.parametrize("text", ["", "LFSC0123", "lfsc0123456789ABCDEF", "LFSC0123456789abcdef"])
def test_other_texts_are_no_cluster_ids(text: str) -> None:
    with pytest.raises(FormatError):
        check_cluster_id(text)


def test_peers_of_one_cluster_meet() -> None:
    assert meet(OWN, PEER) is None


def test_a_node_without_a_cluster_adopts_the_peers() -> None:
    assert meet(dataclasses.replace(OWN, cluster_id=""), PEER) == PEER.cluster_id


def test_a_peer_of_another_cluster_is_refused() -> None:
    with pytest.raises(ClusterMismatch, match="LFSCFFFFFFFFFFFFFFFF"):
        meet(OWN, dataclasses.replace(PEER, cluster_id="LFSCFFFFFFFFFFFFFFFF"))


def test_a_node_never_streams_from_itself() -> None:
    with pytest.raises(StreamError, match="own id"):
        meet(OWN, dataclasses.replace(PEER, node_id=OWN.node_id))


def test_an_older_epoch_is_refused() -> None:
    assert check_epoch(2, PEER) == 3
    with pytest.raises(StreamError, match="epoch"):
        check_epoch(4, PEER)


@pytest.mark.parametrize(
    "change",
    [{"protocol": 99}, {"nodeID": "x"}, {"clusterID": "other"}, {"epoch": "1"}, {"name": 5}, {"name": "n" * 300}],
)
def test_a_hello_of_the_wrong_shape_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        Hello.from_wire({**OWN.to_wire(), **change})


# -- versions --------------------------------------------------------------------------

FIRST_VERSION = {
    "protocol": 1,
    "clusterID": "LFSC0123456789ABCDEF",
    "nodeID": "0000000000000002",
    "name": "n2",
    "epoch": 3,
    "version": "0.0.9",
}
"""What a node of the version before sends: no capabilities, no range of protocols."""


def read_by_the_first_version(value: dict[str, Any]) -> bool:
    """All that a node of the version before checks about a protocol."""
    return value.get("protocol") == 1


def test_a_node_of_the_version_before_is_understood() -> None:
    hello = Hello.from_wire(FIRST_VERSION)

    assert (hello.name, hello.epoch, hello.capabilities) == ("n2", 3, ())
    assert hello.spoken() == 1


def test_the_version_before_understands_us() -> None:
    wire = OWN.to_wire()

    assert read_by_the_first_version(wire)
    assert set(FIRST_VERSION) <= set(wire)


def test_what_a_later_version_adds_is_ignored() -> None:
    later = {**OWN.to_wire(), "newestProtocol": 7, "capabilities": ["teleport", "resume"], "mood": {"good": True}}

    hello = Hello.from_wire(later)

    assert hello.capabilities == ("teleport", "resume")
    assert hello.spoken() == 1, "both speak what the older one speaks"


@pytest.mark.parametrize(
    ("peer", "own", "spoken"),
    [
        ((1, 1), (1, 1), 1),
        ((1, 1), (1, 2), 1),
        ((1, 2), (1, 1), 1),
        ((1, 3), (2, 2), 2),
        ((2, 3), (1, 2), 2),
        ((2, 3), (2, 4), 3),
        ((3, 4), (1, 2), None),
        ((1, 2), (3, 4), None),
        ((2, 1), (1, 2), None),
    ],
)
def test_which_protocol_two_versions_speak(peer: tuple[int, int], own: tuple[int, int], spoken: int | None) -> None:
    assert negotiate(*peer, own=own) == spoken


@pytest.mark.parametrize(
    "change",
    [
        {"protocol": 2},
        {"protocol": True},
        {"protocol": None},
        {"newestProtocol": 0},
        {"newestProtocol": "1"},
        {"capabilities": "resume"},
        {"capabilities": [1]},
        {"capabilities": [""]},
        {"capabilities": ["x" * 65]},
        {"capabilities": ["x"] * 65},
    ],
)
def test_a_version_that_cannot_be_spoken_with_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        Hello.from_wire({**OWN.to_wire(), **change})
