"""Event lines have LiteFS's fields; slow subscribers are told and closed."""

from __future__ import annotations

import asyncio
import json

from sqlitecluster.ltx import Header
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.dispatch import Committed
from sqlitecluster.replicator.events import LIMIT, EventHub, Subscriber
from sqlitecluster.replicator.services import Problem

ENTRY = Committed(
    "app.db",
    Header(page_size=4096, commit=7, min_txid=2, max_txid=3, timestamp_ms=1_700_000_000_123, pre_apply=1 << 63 | 1),
    Position(3, 1 << 63 | 2),
)


async def take(subscriber: Subscriber, count: int) -> list[dict[str, object]]:
    events: list[dict[str, object]] = []
    async for data in subscriber.lines():
        events += [json.loads(line) for line in data.splitlines()]
        if len(events) >= count:
            break
    return events


def test_the_first_line_is_init_and_transactions_follow() -> None:
    async def scene() -> None:
        hub = EventHub(lambda: {"isPrimary": False, "hostname": "n1"})
        subscriber = hub.subscribe()
        hub.transactions([ENTRY])
        assert await take(subscriber, 2) == [
            {"type": "init", "data": {"isPrimary": False, "hostname": "n1"}},
            {
                "type": "tx",
                "db": "app.db",
                "data": {
                    "txID": "0000000000000003",
                    "postApplyChecksum": "8000000000000002",
                    "pageSize": 4096,
                    "commit": 7,
                    "timestamp": "2023-11-14T22:13:20.123Z",
                },
            },
        ]

    asyncio.run(scene())


def test_a_change_of_the_primary_is_told() -> None:
    async def scene() -> None:
        hub = EventHub(lambda: {"isPrimary": True})
        subscriber = hub.subscribe()
        hub.primary_changed()
        events = await take(subscriber, 2)
        assert events[1] == {"type": "primaryChange", "data": {"isPrimary": True}}

    asyncio.run(scene())


def test_a_problem_names_its_database() -> None:
    async def scene() -> None:
        hub = EventHub(lambda: {"isPrimary": True})
        subscriber = hub.subscribe()
        hub.problem(Problem("WalPinned", "app.db", "a reader stays", 0))
        events = await take(subscriber, 2)
        assert events[1] == {
            "type": "problem",
            "db": "app.db",
            "data": {"code": "WalPinned", "message": "a reader stays"},
        }

    asyncio.run(scene())


def test_a_subscriber_too_far_behind_is_closed_with_a_line_that_says_so() -> None:
    async def scene() -> None:
        hub = EventHub(lambda: {"isPrimary": True})
        slow, quick = hub.subscribe(), hub.subscribe()
        await take(quick, 1)
        for _ in range(LIMIT + 50):
            hub.transactions([ENTRY])
            await take(quick, 1)
        events = await take(slow, 10**9)
        assert len(events) == LIMIT + 1
        assert events[-1]["type"] == "error"
        assert "1024 events behind" in json.dumps(events[-1])
        hub.transactions([ENTRY])
        assert [event["type"] for event in await take(quick, 1)] == ["tx"]

    asyncio.run(scene())


def test_without_subscribers_nothing_is_made() -> None:
    hub = EventHub(lambda: {"isPrimary": True})
    hub.transactions([ENTRY])
    assert hub.count == 0
