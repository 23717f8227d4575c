"""Peers of another cluster, of an older epoch, or this node itself are refused."""

from __future__ import annotations

import dataclasses

import pytest

from sqlitecluster.errors import ClusterMismatch, FormatError, StreamError, WireError
from sqlitecluster.replication.lineage import Hello, check_cluster_id, check_epoch, make_cluster_id, meet

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
