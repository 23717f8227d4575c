"""Problems are kept by code and database; descriptors survive in the supervisor."""

from __future__ import annotations

import json
import os
import socket

from sqlitecluster.replicator.services import Problem, ProblemBook, SupervisorLink


def test_a_later_report_replaces_the_text_and_keeps_the_first_time() -> None:
    clock = iter([5, 9])
    book = ProblemBook(lambda: next(clock))
    book.report("StreamBroken", "first")
    book.report("StreamBroken", "second")
    assert book.all() == [Problem("StreamBroken", "", "second", 5)]


def test_problems_of_databases_are_their_own() -> None:
    book = ProblemBook(lambda: 1)
    book.report("Diverged", "x", "a.db")
    book.report("Diverged", "y", "b.db")
    book.clear("Diverged", "a.db")
    book.clear("Diverged", "never.db")
    assert [p.database for p in book.all()] == ["b.db"]


def test_the_book_is_bounded() -> None:
    clock = iter(range(1000))
    book = ProblemBook(lambda: next(clock))
    for i in range(500):
        book.report("X", "m", f"{i}.db")
    assert len(book.all()) == 200
    assert book.all()[-1].database == "499.db"


def test_kept_descriptors_come_back_until_the_end_mark() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    read, write = os.pipe()
    socket.send_fds(theirs, [json.dumps({"op": "kept", "key": "3:shm"}).encode()], [write])
    theirs.send(json.dumps({"op": "kept-end"}).encode())
    link = SupervisorLink(ours)
    link.receive_kept()
    os.write(link.kept["3:shm"], b"x")
    assert os.read(read, 1) == b"x"


def test_what_is_told_to_the_supervisor() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = SupervisorLink(ours)
    link.ready()
    link.state("in-sync")
    link.drop("1:database")
    with open(os.devnull, "rb") as file:
        link.keep("1:shm", file.fileno())
    messages = [json.loads(theirs.recv(1000)) for _ in range(3)]
    assert messages == [{"op": "ready"}, {"op": "state", "text": "in-sync"}, {"op": "drop", "key": "1:database"}]
    data, fds, _flags, _address = socket.recv_fds(theirs, 1000, 2)
    assert json.loads(data) == {"op": "keep", "key": "1:shm"}
    assert len(fds) == 1


def test_a_supervisor_that_is_gone_is_no_error() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs.close()
    SupervisorLink(ours).ready()
    SupervisorLink.none().ready()
