"""A recorded disk, and what a power cut may leave of it.

``Recorder`` writes down what ``syscalls.Calls`` reports. ``Disk`` plays it again, operation by
operation, and knows at each point what is certainly on the disk and what is only in memory.
``Disk.after`` gives one legal content of the disk after the machine died there.

Rules of what is legal (ext4, XFS and others promise no less):
    1. What a sync of a file covered is there, unless that sync failed: then never by it.
    2. Of later writes any sector (512 B) or page (4 KiB) may be old or new, in any order; the
       length of a file may be any that it had since.
    3. Names: of the changes in one folder since its sync a first part is there, the
       rest is not; folders are independent; a rename happens in both folders or in none.
       The name of a folder that was synced is there: it was made in the same transaction.
    4. A process that is killed while the machine lives on loses nothing (``KILL``).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from support.syscalls import Watcher

FOLDER: Final = -1
SECTOR: Final = 512
PAGE: Final = 4096

KILL, LOST, KEPT, MIXED = "kill", "lost", "kept", "mixed"


@dataclass(frozen=True, slots=True)
class Op:
    """One recorded operation. ``kind``: write, size, grow, sync, bad-sync, folder, meta or note."""

    kind: str
    file: int = 0
    offset: int = 0
    data: bytes = b""
    meta: tuple[str, ...] = ()
    note: Any = None


class Recorder(Watcher):
    """The operations of one trace, in order; what is below the root already counts as durable."""

    def __init__(self, root: Path) -> None:
        self.ops: list[Op] = []
        self._tree: dict[str, int] = {}
        self._files = 0
        self._maps: dict[str, tuple[Any, bytearray]] = {}
        for path in sorted(root.rglob("*")):
            self._begin_with(path, str(path.relative_to(root)))

    def _begin_with(self, path: Path, name: str) -> None:
        if path.is_dir():
            self.made_folder(name)
        else:
            self.created(name, is_new=True, truncated=False)
            self.wrote(name, 0, path.read_bytes())
            self.synced(name, failed=False)
        self.synced_folder(os.path.dirname(name))

    def note(self, note: Any) -> None:
        """Something that the checks need to know, at this place of the trace."""
        self._add(Op("note", note=note))

    def _look(self) -> None:
        """Find what was stored into mapped files without a word being said."""
        for path, (array, seen) in self._maps.items():
            now = array.tobytes()
            if now == seen:
                continue
            for at in range(0, len(now), SECTOR):
                if now[at : at + SECTOR] != seen[at : at + SECTOR]:
                    self.ops.append(Op("write", self._tree[path], at, now[at : at + SECTOR]))
            seen[:] = now

    def _add(self, op: Op) -> None:
        self._look()
        self.ops.append(op)

    def _data(self, kind: str, path: str, offset: int = 0, data: bytes = b"") -> None:
        if path in self._tree:  # else: without a name, so nothing of it is ever found
            self._add(Op(kind, self._tree[path], offset, data))

    def created(self, path: str, *, is_new: bool, truncated: bool) -> None:
        if is_new:
            self._files += 1
            self._tree[path] = self._files
            self._add(Op("meta", self._files, meta=("create", path)))
        if truncated:
            self._data("size", path)

    def wrote(self, path: str, offset: int, data: bytes) -> None:
        if data:
            self._data("write", path, offset, data)

    def resized(self, path: str, size: int, *, only_grow: bool) -> None:
        self._data("grow" if only_grow else "size", path, size)

    def synced(self, path: str, *, failed: bool) -> None:
        self._data("bad-sync" if failed else "sync", path)

    def synced_folder(self, path: str) -> None:
        self._add(Op("folder", meta=("folder", path)))

    def renamed(self, source: str, target: str) -> None:
        if self._tree[source] == FOLDER or source in self._maps:
            raise NotImplementedError(f"{source} was renamed")
        self._add(Op("meta", meta=("rename", source, target)))
        self._tree[target] = self._tree.pop(source)

    def linked(self, source: str, target: str) -> None:
        self._add(Op("meta", self._tree[source], meta=("create", target)))
        self._tree[target] = self._tree[source]

    def unlinked(self, path: str) -> None:
        self._add(Op("meta", meta=("unlink", path)))
        self._tree.pop(path, None)
        self._maps.pop(path, None)

    def made_folder(self, path: str) -> None:
        self._tree[path] = FOLDER
        self._add(Op("meta", FOLDER, meta=("create", path)))

    def removed_folder(self, path: str) -> None:
        self.unlinked(path)

    def mapped(self, path: str, memory: Any) -> None:
        self._look()
        self._maps[path] = (memory, bytearray(memory.tobytes()))

    def stored(self, path: str, index: int, value: int) -> None:
        if path not in self._maps:
            return
        seen = self._maps[path][1]
        new = value.to_bytes(8, "little")
        if seen[index * 8 : index * 8 + 8] != new:
            seen[index * 8 : index * 8 + 8] = new
            self._add(Op("write", self._tree[path], index * 8, new))


@dataclass(slots=True)
class _File:
    safe: bytes = b""
    now: bytearray = field(default_factory=bytearray)
    waiting: list[Op] = field(default_factory=list)
    given_up: set[int] = field(default_factory=set)
    """Pages that a failed sync dropped; written again with the next change of the page."""


Content = dict[str, bytes | None]
"""Path → bytes of a file, or None for a folder; parents come before what is in them."""


class Disk:
    """The state of the disk while a trace is played."""

    def __init__(self) -> None:
        self._files: dict[int, _File] = {}
        self._safe: dict[str, int] = {}
        self._now: dict[str, int] = {}
        self._names: list[tuple[Op, frozenset[str]]] = []

    @property
    def is_settled(self) -> bool:
        """Whether a power cut could take nothing."""
        return not self._names and not any(file.waiting for file in self._files.values())

    def play(self, op: Op) -> None:
        """One more operation."""
        if op.kind == "note":
            return
        if op.kind == "meta":
            _rename(self._now, op)
            self._names.append((op, frozenset(os.path.dirname(path) for path in op.meta[1:])))
            if op.file > 0:
                self._files.setdefault(op.file, _File())
        elif op.kind == "folder":
            self._sync_folder(op.meta[1])
        else:
            self._play_data(op, self._files[op.file])

    def _play_data(self, op: Op, file: _File) -> None:
        if op.kind == "sync":
            file.safe, file.waiting = _sized(file) if file.waiting else file.safe, []
        elif op.kind == "bad-sync":
            file.given_up |= {page for each in file.waiting for page in _pages(each)}
            file.waiting = [each for each in file.waiting if each.kind != "write"]
        else:
            _write(file.now, op)
            file.waiting.append(op)
            for page in file.given_up.intersection(_pages(op)) if file.given_up else ():
                file.given_up.remove(page)
                whole = bytes(file.now[page * PAGE : (page + 1) * PAGE])
                file.waiting.append(Op("write", op.file, page * PAGE, whole))

    def _sync_folder(self, path: str) -> None:
        needed = {path}
        left: list[tuple[Op, frozenset[str]]] = []
        done: list[Op] = []
        for op, folders in reversed(self._names):
            if folders & needed or (op.file == FOLDER and op.meta[1] in needed):
                needed |= folders
                done.append(op)
            else:
                left.append((op, folders))
        for op in reversed(done):
            _rename(self._safe, op)
        self._names = left[::-1]

    def after(self, how: str, rng: random.Random) -> Content:
        """What is found after the end came now."""
        tree = self._now if how in (KILL, KEPT) else self._safe if how == LOST else self._some_names(rng)
        found: Content = {}
        for path in sorted(tree):
            parent = os.path.dirname(path)
            if not parent or parent in found:
                found[path] = None if tree[path] == FOLDER else self._bytes(self._files[tree[path]], how, rng)
        return found

    def _some_names(self, rng: random.Random) -> dict[str, int]:
        tree = dict(self._safe)
        cuts: dict[str, int] = {}
        stopped: set[str] = set()
        for index, (op, folders) in enumerate(self._names):
            for folder in folders - cuts.keys():
                cuts[folder] = rng.choice((0, len(self._names), rng.randrange(len(self._names) + 1)))
            if folders & stopped or any(cuts[folder] <= index for folder in folders):
                stopped |= folders
            else:
                _rename(tree, op)
        return tree

    def _bytes(self, file: _File, how: str, rng: random.Random) -> bytes:
        if how == KILL:
            return bytes(file.now)
        if not file.waiting or how == LOST:
            return file.safe
        if how == KEPT:
            return _replayed(file, file.waiting)
        kind = rng.randrange(6)
        if kind == 0:
            return file.safe
        if kind == 1:
            return _replayed(file, file.waiting)
        if kind == 2:  # in order, up to somewhere
            return _replayed(file, _torn(file.waiting, rng))
        if kind == 3:  # the length, but not the bytes
            return _replayed(
                file, [op for op in file.waiting if op.kind != "write"], len(_replayed(file, file.waiting))
            )
        return _replayed(file, _sectors(file.waiting, SECTOR if kind == 4 else PAGE, rng), _some_size(file, rng))


def _pages(op: Op) -> range:
    return range(op.offset // PAGE, (op.offset + len(op.data) + PAGE - 1) // PAGE if op.data else 0)


def _sized(file: _File) -> bytes:
    return _replayed(file, file.waiting)


def _rename(tree: dict[str, int], op: Op) -> None:
    kind, path = op.meta[:2]
    if kind == "create":
        tree[path] = op.file
    elif kind == "rename":
        tree[op.meta[2]] = tree.pop(path)
    else:
        tree.pop(path, None)


def _write(data: bytearray, op: Op) -> None:
    if op.kind == "write":
        if op.offset > len(data):
            data.extend(bytes(op.offset - len(data)))
        data[op.offset : op.offset + len(op.data)] = op.data
    elif op.offset > len(data):
        data.extend(bytes(op.offset - len(data)))
    elif op.kind == "size":
        del data[op.offset :]


def _replayed(file: _File, ops: Iterable[Op], size: int | None = None) -> bytes:
    data = bytearray(file.safe)
    for op in ops:
        _write(data, op)
    if size is not None:
        _write(data, Op("size", offset=size))
    return bytes(data)


def _torn(ops: list[Op], rng: random.Random) -> list[Op]:
    count = rng.randrange(len(ops) + 1)
    kept = ops[:count]
    if count < len(ops) and ops[count].kind == "write":
        op, unit = ops[count], rng.choice((SECTOR, PAGE))
        first = unit - op.offset % unit
        size = rng.choice([*range(0, len(op.data), unit)] or [0])
        kept = [*kept, Op("write", op.file, op.offset, op.data[: max(0, size - unit + first) if size else 0])]
    return [op for op in kept if op.kind != "write" or op.data]


def _sectors(ops: list[Op], unit: int, rng: random.Random) -> list[Op]:
    """The writes, unit by unit: each unit of the file is as it was at some moment."""
    pieces: list[tuple[int, Op]] = []
    counts: Counter[int] = Counter()
    for op in ops:
        for number, piece in _units(op, unit):
            pieces.append((number, piece))
            counts[number] += 1
    share = rng.choice((0.2, 0.5, 0.8, 0.95))
    left = {number: count if rng.random() < share else rng.randrange(count) for number, count in counts.items()}
    kept: list[Op] = []
    for number, piece in pieces:
        left[number] -= 1
        if piece.kind != "write" or left[number] >= 0:
            kept.append(piece)
    return kept


def _units(op: Op, unit: int) -> Iterator[tuple[int, Op]]:
    if op.kind != "write":
        yield -1, op
        return
    at, end = op.offset, op.offset + len(op.data)
    while at < end:
        stop = min(end, (at // unit + 1) * unit)
        yield at // unit, Op("write", op.file, at, op.data[at - op.offset : stop - op.offset])
        at = stop


def _some_size(file: _File, rng: random.Random) -> int | None:
    data, sizes = bytearray(file.safe), [len(file.safe)]
    for op in file.waiting:
        _write(data, op)
        sizes.append(len(data))
    return rng.choice((len(data), rng.choice(sizes)))
