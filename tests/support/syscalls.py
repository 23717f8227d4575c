"""Every call by which this process changes files below a folder: reported, and failed when told.

``Calls`` puts wrappers in the place of functions of ``os`` and of the store's mapped words, so
that nothing can go past it: not what the ``Disk`` port is not asked for, and not a
library. A ``Watcher`` hears what was done; a ``fault`` may refuse a call or cut a write short.

Rules:
    1. Only paths below ``root`` are looked at; everything else passes untouched.
    2. A call is reported after it succeeded, a store into mapped words before anything that follows it.
    3. One thread: whoever uses it lets nothing else run.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sqlitecluster.store import words

Fault = Callable[[str, str], int | None]
"""(call, path) → None: go ahead; a number: write only so many bytes. May raise OSError instead."""


class Watcher:
    """Hears of every change; paths are below the root, without it."""

    def created(self, path: str, *, is_new: bool, truncated: bool) -> None: ...
    def wrote(self, path: str, offset: int, data: bytes) -> None: ...
    def resized(self, path: str, size: int, *, only_grow: bool) -> None: ...
    def synced(self, path: str, *, failed: bool) -> None: ...
    def synced_folder(self, path: str) -> None: ...
    def renamed(self, source: str, target: str) -> None: ...
    def linked(self, source: str, target: str) -> None: ...
    def unlinked(self, path: str) -> None: ...
    def made_folder(self, path: str) -> None: ...
    def removed_folder(self, path: str) -> None: ...
    def mapped(self, path: str, memory: Any) -> None: ...
    def stored(self, path: str, index: int, value: int) -> None: ...


class _Cells:
    """Mapped words, one store at a time."""

    def __init__(self, cells: memoryview, told: Callable[[int, int], None]) -> None:
        self._cells, self._told = cells, told

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, index: Any) -> Any:
        return self._cells[index]

    def __setitem__(self, index: int, value: int) -> None:
        self._cells[index] = value
        self._told(index, int(value))


_NAMES: Final = (
    "open", "write", "pwrite", "pwritev", "ftruncate", "truncate", "posix_fallocate", "fsync", "fdatasync",
    "rename", "replace", "unlink", "remove", "link", "mkdir", "rmdir",
)  # fmt: skip


class Calls:
    """The wrappers, from ``with`` to its end."""

    def __init__(self, root: Path, watcher: Watcher | None = None, fault: Fault | None = None) -> None:
        self._root = f"{root}/"
        self._watcher = watcher or Watcher()
        self.fault = fault
        self._real: dict[str, Any] = {}
        self._map, self._sync = words.WordFile._map, words.WordFile.sync

    def __enter__(self) -> Self:
        for name in _NAMES:
            self._real[name] = getattr(os, name)
            setattr(os, name, getattr(self, f"_{name}"))
        calls = self

        def mapped(file: words.WordFile, count: int) -> None:
            calls._map(file, count)
            path = calls._below(file.path)
            if path is not None:
                calls._watcher.mapped(path, file.array)
                file.cells = _Cells(file.cells, lambda index, value: calls._watcher.stored(path, index, value))  # type: ignore[assignment]

        def sync(file: words.WordFile) -> None:
            calls._sync_words(file)

        words.WordFile._map, words.WordFile.sync = mapped, sync  # type: ignore[method-assign]
        return self

    def __exit__(self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None) -> None:
        for name, function in self._real.items():
            setattr(os, name, function)
        words.WordFile._map, words.WordFile.sync = self._map, self._sync  # type: ignore[method-assign]

    # -- where ------------------------------------------------------------------------

    def _below(self, path: Any) -> str | None:
        text = os.fspath(path)
        if text == self._root[:-1]:
            return ""
        return text[len(self._root) :] if isinstance(text, str) and text.startswith(self._root) else None

    def _of(self, fd: int) -> str | None:
        try:
            return self._below(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            return None

    def _ask(self, call: str, path: str) -> int | None:
        return self.fault(call, path) if self.fault is not None else None

    # -- files ------------------------------------------------------------------------

    def _open(self, path: Any, flags: int, mode: int = 0o777, **rest: Any) -> int:
        real = self._real["open"]
        where = self._below(path) if not rest else None
        if where is not None and not flags & (os.O_CREAT | os.O_TRUNC):
            self._ask("open-again", where)
        if where is None or not flags & (os.O_CREAT | os.O_TRUNC):
            return int(real(path, flags, mode, **rest))
        is_new = not os.path.exists(path)
        self._ask("open", where)
        fd = int(real(path, flags, mode))
        self._watcher.created(where, is_new=is_new, truncated=bool(flags & os.O_TRUNC) and not is_new)
        return fd

    def _written(self, call: str, fd: int, data: bytes, offset: int) -> int:
        path = self._of(fd)
        limit = self._ask(call, path) if path is not None else None
        if limit is not None:
            data = data[:limit]
        done = int(self._real["pwrite"](fd, data, offset))
        if path is not None:
            self._watcher.wrote(path, offset, data[:done])
        return done

    def _pwritev(self, fd: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        return self._written("write", fd, b"".join(buffers), offset)

    def _pwrite(self, fd: int, data: Any, offset: int) -> int:
        return self._written("write", fd, bytes(data), offset)

    def _write(self, fd: int, data: Any) -> int:
        if self._of(fd) is None:
            return int(self._real["write"](fd, data))
        at = os.lseek(fd, 0, os.SEEK_CUR)
        done = self._written("write", fd, bytes(data), at)
        os.lseek(fd, at + done, os.SEEK_SET)
        return done

    def _ftruncate(self, fd: int, size: int) -> None:
        path = self._of(fd)
        if path is not None:
            self._ask("truncate", path)
        self._real["ftruncate"](fd, size)
        if path is not None:
            self._watcher.resized(path, size, only_grow=False)

    def _truncate(self, path: Any, size: int) -> None:
        if isinstance(path, int):
            self._ftruncate(path, size)
            return
        fd = self._real["open"](path, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._ftruncate(fd, size)
        finally:
            os.close(fd)

    def _posix_fallocate(self, fd: int, offset: int, size: int) -> None:
        path = self._of(fd)
        if path is not None:
            self._ask("allocate", path)
        self._real["posix_fallocate"](fd, offset, size)
        if path is not None:
            self._watcher.resized(path, offset + size, only_grow=True)

    def _synced(self, name: str, fd: int) -> None:
        path = self._of(fd)
        if path is None:
            self._real[name](fd)
            return
        is_folder = os.path.isdir(f"/proc/self/fd/{fd}")
        try:
            self._ask("sync-folder" if is_folder else "sync", path)
        except OSError:
            if not is_folder:
                self._watcher.synced(path, failed=True)
            raise
        self._real[name](fd)
        if is_folder:
            self._watcher.synced_folder(path)
        else:
            self._watcher.synced(path, failed=False)

    def _fsync(self, fd: int) -> None:
        self._synced("fsync", fd)

    def _fdatasync(self, fd: int) -> None:
        self._synced("fdatasync", fd)

    def _sync_words(self, file: words.WordFile) -> None:
        path = self._below(file.path)
        if path is None:
            self._sync(file)
            return
        try:
            self._ask("sync", path)
        except OSError:
            self._watcher.synced(path, failed=True)
            raise
        self._sync(file)
        self._watcher.synced(path, failed=False)

    # -- names ------------------------------------------------------------------------

    def _replace(self, source: Any, target: Any) -> None:
        one, other = self._below(source), self._below(target)
        if one is not None and other is not None:
            self._ask("rename", other)
        self._real["replace"](source, target)
        if one is not None and other is not None:
            self._watcher.renamed(one, other)

    _rename = _replace

    def _link(self, source: Any, target: Any, **rest: Any) -> None:
        one, other = self._below(source), self._below(target)
        if other is not None:
            self._ask("link", other)
        self._real["link"](source, target, **rest)
        if one is not None and other is not None:
            self._watcher.linked(one, other)

    def _unlink(self, path: Any, **rest: Any) -> None:
        where = self._below(path) if not rest else None
        if where is not None and os.path.lexists(path):
            self._ask("unlink", where)
        self._real["unlink"](path, **rest)
        if where is not None:
            self._watcher.unlinked(where)

    _remove = _unlink

    def _mkdir(self, path: Any, mode: int = 0o777, **rest: Any) -> None:
        where = self._below(path) if not rest else None
        if where is not None and not os.path.lexists(path):
            self._ask("mkdir", where)
        self._real["mkdir"](path, mode, **rest)
        if where is not None:
            self._watcher.made_folder(where)

    def _rmdir(self, path: Any, **rest: Any) -> None:
        self._real["rmdir"](path, **rest)
        where = self._below(path) if not rest else None
        if where is not None:
            self._watcher.removed_folder(where)


def failure(number: int) -> OSError:
    """An error of the operating system, as a call would raise it."""
    return OSError(number, os.strerror(number))


FULL: Final = (errno.ENOSPC, errno.EDQUOT)
