"""The node-wide append log: a commit of any database costs one write to one file.

Segments of 16 MiB, ``<data>/log/<number>.log``, are allocated ahead and recycled. A
segment is freed when every blob in it is also in an LTX file on disk (``release``).

Rules:
    1. ``append`` never syncs; ``sync`` does, and ``synced`` tells how far.
    2. Sequence numbers never repeat: the segment's number is their upper part, and the
       newest segment file always stays.
    3. A failed write leaves the log as it was. After a failed sync nobody knows what is on
       the disk, and the next one would say nothing: the segment is in doubt. Nothing more is
       appended to it, and ``sync`` fails until all its blobs are in LTX files.
    4. A torn tail is cut off at the next start, with a log line. What is found at a start is
       synced before it counts: a killed process may have left it in memory only.

Called by ``database.DatabaseStore`` (append, read) and the housekeeper (sync).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlitecluster import failpoints
from sqlitecluster.store import record as records
from sqlitecluster.store.disk import Disk
from sqlitecluster.store.logscan import SegmentContent, find_segments, read_segment

log = logging.getLogger(__name__)

SEGMENT_SIZE: Final = 16 << 20  # bytes
_SEQUENCE_BITS: Final = 32  # records of one segment
_SPARE: Final = "spare"


class Segment:
    """One open segment file."""

    __slots__ = ("end", "fd", "in_doubt", "lock", "number", "path", "refs", "size")

    def __init__(self, number: int, path: Path, fd: int, size: int, end: int) -> None:
        self.number, self.path, self.fd, self.size, self.end = number, path, fd, size, end
        self.refs = 0  # blobs that are in no LTX file yet
        self.in_doubt = False  # a sync of it failed
        self.lock = threading.Lock()

    def read(self, offset: int, size: int) -> bytes | None:
        """Bytes of a blob; None when the segment was freed meanwhile."""
        with self.lock:
            return os.pread(self.fd, size, offset) if self.fd >= 0 else None

    def close(self) -> None:
        """Close it; later reads say None."""
        with self.lock:
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1


@dataclass(frozen=True, slots=True)
class Logged:
    """Where an appended blob is."""

    segment: Segment
    offset: int
    size: int
    sequence: int


class NodeLog:
    """The log of one node. Appending is possible from any thread."""

    def __init__(
        self,
        folder: Path,
        disk: Disk,
        keep_damaged: Callable[[Path, str], None],
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        self._folder = folder
        self._disk = disk
        self._segment_size = segment_size
        self._lock = threading.Lock()
        self._unsynced: list[Segment] = []
        self.segments: dict[int, Segment] = {}
        self.recovered: list[tuple[str, Logged]] = []
        """What an earlier process left: (database name, place), in order of appending."""
        folder.mkdir(parents=True, exist_ok=True)
        newest = self._recover(keep_damaged)
        self._current: Segment | None = None
        self._next_number = newest + 1
        self._sequence = self._next_number << _SEQUENCE_BITS
        self.synced = self._sequence
        """Every blob up to this sequence number survives a power cut."""

    @property
    def sequence(self) -> int:
        """Number of the newest blob."""
        return self._sequence

    def append(self, name: bytes, blob: bytes | memoryview) -> Logged:
        """Write one blob.

        Raises:
            NoSpace: the disk is full; nothing was changed.
        """
        size = len(blob)
        with self._lock:
            segment = self._current
            need = records.HEAD_SIZE + len(name) + size
            if segment is None or segment.end + need + records.HEAD_SIZE > segment.size:
                segment = self._roll(need + records.HEAD_SIZE)
            sequence = self._sequence + 1
            before = records.head(records.KIND_LTX, name, blob, segment.number, sequence)
            self._disk.pwritev(segment.fd, (before, blob), segment.end)
            offset = segment.end + len(before)
            segment.end = offset + size
            segment.refs += 1
            self._sequence = sequence
        failpoints.hit("log.after-append")
        return Logged(segment, offset, size, sequence)

    @property
    def dirty(self) -> bool:
        """Whether something is not durable yet."""
        return self._sequence != self.synced

    def sync(self) -> int:
        """Make everything durable that was appended before the call; returns the sequence reached."""
        with self._lock:
            target = self._sequence
            if target == self.synced:
                return target
            old, self._unsynced = self._unsynced, []
            current = self._current
        waiting = [*old, current] if current is not None else old
        while waiting:
            try:
                self._sync_segment(waiting[0])
            except BaseException:
                self._doubt(waiting)
                raise
            waiting = waiting[1:]
        if any(segment.in_doubt for segment in list(self.segments.values())):
            raise OSError(errno.EIO, "an earlier sync of the log failed, and not all of it is stored anew yet")
        self.synced = max(self.synced, target)
        return target

    def _doubt(self, waiting: list[Segment]) -> None:
        """The sync of the first of these failed; the others were not tried."""
        with self._lock:
            waiting[0].in_doubt = True
            self._unsynced = [each for each in waiting[1:] if each is not self._current] + self._unsynced
            if waiting[0] is self._current:
                self._current = None

    def _sync_segment(self, segment: Segment) -> None:
        # On a duplicate, so that readers need not wait for the disk. A freed segment has
        # nothing left to sync: its blobs are in synced LTX files.
        with segment.lock:
            if segment.fd < 0:
                return
            fd = os.dup(segment.fd)
        try:
            self._disk.fdatasync(fd)
        finally:
            os.close(fd)

    def release(self, segment: Segment, blobs: int = 1) -> None:
        """Say that blobs of a segment are safe elsewhere; frees the segment with the last one."""
        with self._lock:
            segment.refs -= blobs
            if segment.refs <= 0 and segment is not self._current:
                self._free(segment)

    def prepare_spare(self) -> None:
        """Allocate the next segment ahead of need [housekeeper]."""
        path = self._folder / _SPARE
        current = self._current
        if current is None or path.exists() or current.end < current.size // 2:
            return
        temporary = self._folder / (_SPARE + ".tmp")
        fd = self._disk.create(temporary)
        try:
            self._disk.allocate(fd, self._segment_size)
        finally:
            os.close(fd)
        self._disk.replace(temporary, path)

    def close(self) -> None:
        """Make everything durable and close the files; nothing is removed."""
        self.sync()
        with self._lock:
            current, self._current = self._current, None
            if current is not None:
                self._disk.truncate(current.fd, current.end if current.refs > 0 else 0)
                self._disk.fsync(current.fd)
            for segment in self.segments.values():
                segment.close()
            self.segments.clear()
        self._disk.unlink(self._folder / _SPARE)
        self._disk.fsync_dir(self._folder)

    def _roll(self, need: int) -> Segment:
        """Start the next segment; the caller holds the lock."""
        segment = self._create(max(need, self._segment_size))
        old = self._current
        if old is not None:
            if old.end + records.HEAD_SIZE <= old.size:
                end = records.head(records.KIND_END, b"", b"", old.number, self._sequence + 1)
                self._disk.pwritev(old.fd, (end,), old.end)
            self._unsynced.append(old)
        self._current = segment
        self._sequence = max(self._sequence, segment.number << _SEQUENCE_BITS)
        for each in list(self.segments.values()):
            if each.refs <= 0 and each is not segment:
                self._free(each)
        return segment

    def _create(self, size: int) -> Segment:
        number = self._next_number
        path = self._folder / f"{number:012d}.log"
        spare = self._folder / _SPARE
        if size == self._segment_size and spare.exists():
            self._disk.replace(spare, path)
        fd = self._disk.open(path)
        try:
            self._disk.allocate(fd, size)
            self._disk.fsync_dir(self._folder)
        except BaseException:
            os.close(fd)
            self._disk.unlink(path)
            raise
        self._next_number = number + 1
        segment = Segment(number, path, fd, size, 0)
        self.segments[number] = segment
        return segment

    def _free(self, segment: Segment) -> None:
        if self.segments.pop(segment.number, None) is None:
            return
        is_newest = self._current is None and segment.number + 1 == self._next_number
        if is_newest:  # the file stays: it carries the number (rule 2)
            self._disk.truncate(segment.fd, 0)
        segment.close()
        if segment in self._unsynced:
            self._unsynced.remove(segment)
        if is_newest:
            return
        spare = self._folder / _SPARE
        if segment.size == self._segment_size and not spare.exists():
            self._disk.replace(segment.path, spare)
        else:
            self._disk.unlink(segment.path)

    def _recover(self, keep_damaged: Callable[[Path, str], None]) -> int:
        found = find_segments(self._folder)
        self._disk.unlink(self._folder / (_SPARE + ".tmp"))
        for number, path in found:
            content = read_segment(number, path)
            newest = number == found[-1][0]
            if not content.closed:
                self._close_torn(content, keep_damaged, newest)
            self._adopt(content)
        return found[-1][0] if found else 0

    def _close_torn(self, content: SegmentContent, keep_damaged: Callable[[Path, str], None], newest: bool) -> None:
        if content.torn or not newest:
            log.warning(
                "log segment %s: the record at byte %d is not whole; %d records before it are kept",
                content.path.name, content.end, len(content.records),
            )  # fmt: skip
        if not newest or content.rotten:
            keep_damaged(content.path, "a log segment is damaged before its end")
        os.truncate(content.path, content.end)

    def _adopt(self, content: SegmentContent) -> None:
        fd = os.open(content.path, os.O_RDWR | os.O_CLOEXEC)
        size = os.fstat(fd).st_size
        segment = Segment(content.number, content.path, fd, size, content.end)
        self.segments[content.number] = segment
        self._disk.fdatasync(fd)
        for each in content.records:
            segment.refs += 1
            place = Logged(segment, each.blob_at, each.blob_size, each.sequence)
            self.recovered.append((each.name.decode("utf-8", "replace"), place))
