"""The hand-over to the apply thread is bounded and keeps its order."""

from __future__ import annotations

from sqlitecluster.replicator.work import FULL_BYTES, Marker, Transaction, WorkQueue


def queue(events: list[str]) -> WorkQueue:
    return WorkQueue(lambda: events.append("wake"), lambda: events.append("room"))


def test_order_is_kept() -> None:
    events: list[str] = []
    work = queue(events)
    items = [Transaction("a.db", b"1"), Marker(lambda: None), Transaction("b.db", b"2")]
    for item in items:
        work.put(item)
    assert work.take() == items
    assert work.take() == []
    assert events == ["wake"] * 3


def test_a_full_queue_tells_when_there_is_room_again() -> None:
    events: list[str] = []
    work = queue(events)
    items = [Transaction("a.db", bytes(FULL_BYTES // 4)) for _ in range(5)]
    for item in items:
        work.put(item)
    assert work.full
    for item in work.take()[:4]:
        work.done(item)
    assert "room" not in events
    work.done(items[4])
    assert events.count("room") == 1
    assert work.waiting_bytes == 0
    assert not work.full
