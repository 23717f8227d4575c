"""The ``/events`` stream: what happens on this node as lines of JSON.

Each subscriber first gets ``init``, then ``tx`` for every transaction (captured here or
applied here) and ``primaryChange``, with LiteFS's fields; ``problem`` lines are ours.

Rules:
    1. A subscriber that falls ``LIMIT`` events behind is closed; its last line says so.
    2. Nobody's slowness costs others anything: queues are per subscriber and bounded.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, Final

from sqlitecluster.errors import TooSlow
from sqlitecluster.replicator.dispatch import Committed
from sqlitecluster.replicator.services import Problem
from sqlitecluster.units import format_checksum, format_txid

LIMIT: Final = 1024


def timestamp(ms: int) -> str:
    """RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Subscriber:
    """One reader of ``/events``."""

    def __init__(self, first: dict[str, Any]) -> None:
        self._queue: deque[bytes] = deque([_line(first)])
        self._wake = asyncio.Event()
        self._wake.set()
        self._closed = False

    def push(self, line: bytes) -> None:
        """Add an event; closes the subscriber when it is too far behind."""
        if self._closed:
            return
        if len(self._queue) >= LIMIT:
            message = f"this subscriber fell {LIMIT} events behind; connect again and read faster"
            self._queue.append(_line({"type": "error", "data": TooSlow(message).to_wire()}))
            self._closed = True
        else:
            self._queue.append(line)
        self._wake.set()

    def close(self) -> None:
        """End the stream after what is queued."""
        self._closed = True
        self._wake.set()

    async def lines(self) -> AsyncIterator[bytes]:
        """Lines as they come, several at once when they wait, until closed."""
        while True:
            if self._queue:
                data = b"".join(self._queue)
                self._queue.clear()
                yield data
            elif self._closed:
                return
            else:
                self._wake.clear()
                await self._wake.wait()


class EventHub:
    """All subscribers of this node."""

    def __init__(self, role: Callable[[], dict[str, Any]]) -> None:
        self._role = role
        self._subscribers: set[Subscriber] = set()

    @property
    def count(self) -> int:
        """Connected subscribers."""
        return len(self._subscribers)

    def subscribe(self) -> Subscriber:
        """A new subscriber whose first line is ``init``."""
        subscriber = Subscriber({"type": "init", "data": self._role()})
        self._subscribers.add(subscriber)
        return subscriber

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Forget a subscriber."""
        self._subscribers.discard(subscriber)

    def transactions(self, batch: list[Committed]) -> None:
        """Dispatcher listener."""
        if not self._subscribers:
            return
        for entry in batch:
            self._publish(_transaction_event(entry))

    def primary_changed(self) -> None:
        """This node's role, or the primary's name, changed."""
        self._publish({"type": "primaryChange", "data": self._role()})

    def problem(self, problem: Problem) -> None:
        """A new problem of this node or of one database."""
        event: dict[str, Any] = {"type": "problem"}
        if problem.database:
            event["db"] = problem.database
        self._publish({**event, "data": {"code": problem.code, "message": problem.message}})

    def close(self) -> None:
        """End all subscribers; the node stops."""
        for subscriber in self._subscribers:
            subscriber.close()

    def _publish(self, event: dict[str, Any]) -> None:
        line = _line(event)
        for subscriber in self._subscribers:
            subscriber.push(line)


def _transaction_event(entry: Committed) -> dict[str, Any]:
    return {
        "type": "tx",
        "db": entry.name,
        "data": {
            "txID": format_txid(entry.position.txid),
            "postApplyChecksum": format_checksum(entry.position.checksum),
            "pageSize": entry.header.page_size,
            "commit": entry.header.commit,
            "timestamp": timestamp(entry.header.timestamp_ms),
        },
    }


def _line(event: dict[str, Any]) -> bytes:
    return json.dumps(event, separators=(",", ":")).encode() + b"\n"
