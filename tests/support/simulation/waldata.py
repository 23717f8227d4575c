"""The write-ahead log of a node whose programs write: recorded commits with salts of its own.

Production parts: ``mount.waltrack`` sees every write, ``capture_group`` and
``sqlitefmt.wal`` turn published frames into groups, ``capture_publish`` puts them into
the log. What the mount does between them (holding back, fence, publication) is in
``primary``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlitecluster.mount.waltrack import Seen, WalTracker
from sqlitecluster.replicator.capture_group import Cursor, Group, take_group
from sqlitecluster.sqlitefmt import wal
from support.simulation.content import Content
from support.simulation.pagestream import PAGE_SIZE, recording

if TYPE_CHECKING:
    from support.simulation.node import Node

FRAME = wal.FRAME_HEADER_SIZE + PAGE_SIZE
LONG_WAL = 400
"""Frames after which a program checkpoints, now and then."""


@dataclass
class Commit:
    """One transaction as a program writes it."""

    content: Content
    writes: list[tuple[int, bytes]]
    """(offset, bytes) in their order; the last completes it."""
    pages: dict[int, bytes]
    size: int
    """Pages of the database afterwards."""
    end: int
    """Offset behind its last frame."""
    seed: tuple[int, int]
    """Running checksum there."""
    generation: int


class NodeWal:
    """One node's log, from its promotion on."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.path = node.folder / "wal"
        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        self.tracker = WalTracker(lambda at, length: os.pread(self.fd, length, at))
        self.header: wal.WALHeader | None = None
        self.cursor: Cursor | None = None
        self.generation = 0
        self.published = 0
        """Offset behind the last frame that readers see."""
        self.seed = (0, 0)

    def close(self) -> None:
        """Forget it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def frames(self) -> int:
        """Published frames."""
        return max(0, self.published - wal.HEADER_SIZE) // FRAME

    @property
    def captured(self) -> bool:
        """Whether nothing published waits for the capture."""
        return self.cursor is None or self.cursor.end >= self.published

    def restart(self, header: wal.WALHeader | None = None) -> None:
        """A writer begins the log anew: next salts, header at offset 0. Everything is captured and written back."""
        self.header = header or self._next_header()
        raw = self.header.pack()
        self.node.disk.pwritev(self.fd, (raw,), 0)
        self.tracker.restart(raw)
        self.generation += 1
        self.cursor = Cursor.start(self.header)
        self.published, self.seed = wal.HEADER_SIZE, self.header.seed

    def _next_header(self) -> wal.WALHeader:
        rng, old = self.node.world.rng, self.header
        salt1 = (old.salt1 + 1) & 0xFFFF_FFFF if old is not None else rng.getrandbits(32)
        sequence = old.sequence + 1 if old is not None else 0
        return wal.WALHeader(page_size=PAGE_SIZE, salt1=salt1, salt2=rng.getrandbits(32), sequence=sequence)

    def prepare(self, content: Content) -> Commit:
        """The writes of the next transaction."""
        if self.header is None:
            self.restart()
        assert self.header is not None
        shape = recording().shapes[content.index]
        sums: dict[int, tuple[int, int]] = {-1: self.seed}
        pages: dict[int, bytes] = {}
        pgnos: dict[int, int] = {}
        writes: list[tuple[int, bytes]] = []
        ahead: bytes | None = None
        for number, write in enumerate(shape.writes):
            at = self.published + write.frame * FRAME
            if write.page is not None:
                page = pages[write.frame] = ahead if ahead is not None else write.page.fill(content)
                ahead = None
                writes.append((at + wal.FRAME_HEADER_SIZE, page))
                continue
            pgnos[write.frame] = write.pgno
            if not write.salted:
                writes.append((at, write.pgno.to_bytes(4, "big") + write.commit.to_bytes(4, "big") + bytes(16)))
                continue
            following = shape.writes[number + 1] if number + 1 < len(shape.writes) else None
            if following is not None and following.page is not None and following.frame == write.frame:
                ahead = pages[write.frame] = following.page.fill(content)
            pair = [(write.pgno, pages[write.frame])]
            framed, sums[write.frame] = wal.build_frames(pair, write.commit, self.header, sums[write.frame - 1])
            writes.append((at, bytes(framed[: wal.FRAME_HEADER_SIZE])))
        newest = {pgnos[frame]: pages[frame] for frame in sorted(pgnos)}
        end = self.published + shape.frames * FRAME
        return Commit(content, writes, newest, shape.commit, end, sums[shape.frames - 1], self.generation)

    def written(self, calls: list[tuple[int, bytes]], content: Content) -> Commit:
        """A transaction as SQLite itself wrote it."""
        if calls[0][0] == 0:
            self.restart(wal.WALHeader.parse(calls[0][1]))
            calls = calls[1:]
        pgnos: dict[int, int] = {}
        pages: dict[int, bytes] = {}
        size = 0
        for offset, data in calls:
            frame, within = divmod(offset - wal.HEADER_SIZE, FRAME)
            if within:
                pages[frame] = data
            else:
                pgnos[frame] = int.from_bytes(data[:4], "big")
                size = int.from_bytes(data[4:8], "big") if frame == max(pgnos) else size
        newest = {pgnos[frame]: pages[frame] for frame in sorted(pgnos)}
        end = wal.HEADER_SIZE + (max(pgnos) + 1) * FRAME
        return Commit(content, calls, newest, size, end, self.seed, self.generation)

    def write(self, offset: int, data: bytes) -> Seen:
        """One write reaches the file, seen by the tracker."""
        tracker = self.tracker
        if offset < tracker.size and tracker.rewinds(offset, data):
            tracker.rewind(tracker.frame_start(offset))
        self.node.disk.pwritev(self.fd, (data,), offset)
        return tracker.feed(offset, data)

    def next_group(self, limit: int, commit_before: int, held: tuple[int, bytes] | None = None) -> Group | None:
        """The next transactions to capture, up to an offset; ``held``: bytes that are not in the file."""
        cursor = self.cursor
        if cursor is None or cursor.end >= limit:
            return None
        data = os.pread(self.fd, limit - cursor.end, cursor.end)
        if held is not None:
            at, late = held
            both = bytearray(data.ljust(limit - cursor.end, b"\0"))
            both[at - cursor.end : at - cursor.end + len(late)] = late
            data = bytes(both)
        found = wal.scan(data, cursor.header, cursor.seed)
        return take_group(cursor, found, data, commit_before)
