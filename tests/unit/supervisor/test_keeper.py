"""The keeper: descriptors that outlive the replicator."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlitecluster.supervisor import datagrams, keeper


class Kept:
    """A keeper process, and replicators that are only sockets."""

    def __init__(self) -> None:
        self.pid, self.sock = keeper.start()
        self.serving = 0

    def replicator(self, *, offer: bool = True) -> socket.socket:
        ours, theirs = datagrams.pair()
        self.serving += 1
        datagrams.send(self.sock, {"op": "serve", "serving": self.serving, "offer": offer}, [theirs.fileno()])
        theirs.close()
        return ours


@pytest.fixture
def kept() -> Iterator[Kept]:
    found = Kept()
    yield found
    found.sock.close()
    os.waitpid(found.pid, 0)


def offered(replicator: socket.socket) -> dict[str, int]:
    fds: dict[str, int] = {}
    while (received := datagrams.receive(replicator)) is not None and received[0]["op"] == "kept":
        fds[received[0]["key"]] = received[1][0]
    return fds


def keep(replicator: socket.socket, key: str, path: Path) -> None:
    with path.open("rb") as file:
        datagrams.send(replicator, {"op": "keep", "key": key}, [file.fileno()])


def test_a_new_node_has_nothing_kept(kept: Kept) -> None:
    assert offered(kept.replicator()) == {}


def test_a_successor_is_offered_what_its_predecessor_kept(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    first = kept.replicator()
    offered(first)
    keep(first, "0:shm", tmp_path / "a")
    first.close()

    fds = offered(kept.replicator())

    assert list(fds) == ["0:shm"]
    assert os.pread(fds["0:shm"], 100, 0) == b"content"


def test_the_same_key_replaces_and_drop_removes(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "b").write_text("new")
    first = kept.replicator()
    offered(first)
    keep(first, "x", tmp_path / "a")
    keep(first, "x", tmp_path / "b")
    keep(first, "y", tmp_path / "a")
    datagrams.send(first, {"op": "drop", "key": "y"})
    first.close()

    fds = offered(kept.replicator())

    assert list(fds) == ["x"]
    assert os.pread(fds["x"], 100, 0) == b"new"


def test_the_last_words_of_a_dead_replicator_are_heard(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    os.kill(kept.pid, signal.SIGSTOP)  # so that everything waits at once
    first = kept.replicator()
    keys = [str(number) for number in range(20)]
    for key in keys:
        keep(first, key, tmp_path / "a")
    first.close()
    second = kept.replicator()
    os.kill(kept.pid, signal.SIGCONT)

    assert list(offered(second)) == keys


def test_other_messages_reach_the_supervisor_with_the_number_of_their_sender(kept: Kept) -> None:
    kept.replicator().close()
    second = kept.replicator()
    offered(second)
    datagrams.send(second, {"op": "state", "text": "in-sync"})

    assert datagrams.receive(kept.sock) == ({"op": "state", "text": "in-sync", "serving": 2}, [])


def test_a_replicator_that_is_handed_to_another_keeper_is_not_offered_again(kept: Kept) -> None:
    running = kept.replicator(offer=False)
    datagrams.send(running, {"op": "ready"})

    assert datagrams.receive(kept.sock) == ({"op": "ready", "serving": 1}, [])
    running.setblocking(False)
    with pytest.raises(BlockingIOError):
        datagrams.receive(running)


def test_nothing_is_kept_of_a_connection_that_is_gone(kept: Kept, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = kept.replicator()
    offered(first)
    keep(first, "x", tmp_path / "a")
    datagrams.send(first, {"op": "ready"})
    datagrams.receive(kept.sock)  # so it has the descriptor by now
    datagrams.send(kept.sock, {"op": "clear"})

    assert offered(kept.replicator()) == {}


def test_an_oversized_message_is_refused_by_its_sender() -> None:
    ours, _theirs = datagrams.pair()

    with pytest.raises(OverflowError):
        datagrams.send(ours, {"op": "x" * 70_000})


def test_the_end_of_the_other_side_is_no_message() -> None:
    ours, theirs = datagrams.pair()
    theirs.close()

    assert datagrams.receive(ours) is None
