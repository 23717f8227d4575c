"""The disk as the store uses it: every durable step goes through one ``Disk``.

Tests put a recording or failing ``Disk`` here. Reads go to the file system directly;
mapped files (``words``) are outside, their loss is covered by recovery.

Rules:
    1. A file that others may find appears whole: written beside, synced, renamed, and
       its directory synced.
    2. ENOSPC becomes NoSpace; every other OSError stays what it is.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sqlitecluster.errors import NoSpace

Buffer = bytes | bytearray | memoryview

_PIECE: Final = 1 << 20  # bytes of one write


class Disk:
    """The real disk."""

    def pwritev(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all buffers at an offset, whole."""
        total = sum(map(len, buffers))
        try:
            done = os.pwritev(fd, buffers, offset)
            if done != total:
                rest = memoryview(b"".join(buffers))
                while done < total:
                    done += os.pwrite(fd, rest[done:], offset + done)
        except OSError as error:
            raise translate(error) from error

    def create(self, path: Path | str) -> int:
        """Open a file for writing, empty or new."""
        return self.open(path, os.O_TRUNC)

    def open(self, path: Path | str, flags: int = 0) -> int:
        """Open a file for reading and writing; made when there is none."""
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | flags, 0o644)
        except OSError as error:
            raise translate(error) from error

    def make_folder(self, path: Path) -> None:
        """Make a folder and those above it, where they are missing; the names are the caller's to sync."""
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise translate(error) from error

    @contextmanager
    def writing(self, path: Path | str) -> Iterator[Callable[[Buffer], None]]:
        """Make a file of pieces that come one after the other; not synced."""
        fd = self.create(path)
        waiting, at = bytearray(), 0
        try:

            def write(piece: Buffer) -> None:
                nonlocal at
                waiting.extend(piece)
                if len(waiting) >= _PIECE:
                    self.pwritev(fd, (waiting,), at)
                    at += len(waiting)
                    waiting.clear()

            yield write
            self.pwritev(fd, (waiting,), at)
        finally:
            os.close(fd)

    def fdatasync(self, fd: int) -> None:
        """Make a file's bytes durable."""
        os.fdatasync(fd)

    def fsync(self, fd: int) -> None:
        """Make a file's bytes and size durable."""
        os.fsync(fd)

    def fsync_dir(self, path: Path | str) -> None:
        """Make a directory's names durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def allocate(self, fd: int, size: int) -> None:
        """Take room for ``size`` bytes now, so that later stores cannot meet a full disk."""
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as error:
            raise translate(error) from error

    def truncate(self, fd: int, size: int) -> None:
        """Give a file this size."""
        os.ftruncate(fd, size)

    def replace(self, source: Path | str, target: Path | str) -> None:
        """Rename within one file system."""
        try:
            os.replace(source, target)
        except OSError as error:
            raise translate(error) from error

    def unlink(self, path: Path | str) -> None:
        """Remove a file; a missing one is fine."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return

    def write_file(self, path: Path, chunks: Iterable[Buffer], *, sync_dir: bool = True) -> None:
        """Put a whole file in place: beside, fsync, rename, directory fsync."""
        temporary = path.with_name(path.name + ".tmp")
        fd = self.create(temporary)
        try:
            offset = 0
            for chunk in chunks:
                self.pwritev(fd, [chunk], offset)
                offset += len(chunk)
            self.fsync(fd)
        except BaseException:
            os.close(fd)
            self.unlink(temporary)
            raise
        os.close(fd)
        self.replace(temporary, path)
        if sync_dir:
            self.fsync_dir(path.parent)


def translate(error: OSError) -> Exception:
    """ENOSPC as NoSpace; other errors as they are."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"the disk is full: {error.strerror}")
    return error
