"""Counters of the asyncio side, read by ``metrics``. Used in the event loop only."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """What happened since this process started."""

    bytes_sent: int = 0
    bytes_received: int = 0
    frames_sent: dict[str, int] = field(default_factory=dict)
    frames_received: dict[str, int] = field(default_factory=dict)
    transactions: dict[str, int] = field(default_factory=dict)
    """LTX files captured or applied, by database."""
    snapshots_sent: int = 0
    snapshots_received: int = 0
    connects: int = 0
    """Streams that this replica opened."""
    refused_streams: int = 0
    """Streams of others that this node refused."""

    def sent(self, kind: str, size: int) -> None:
        """One frame left."""
        self.frames_sent[kind] = self.frames_sent.get(kind, 0) + 1
        self.bytes_sent += size

    def received(self, kind: str) -> None:
        """One frame arrived."""
        self.frames_received[kind] = self.frames_received.get(kind, 0) + 1
