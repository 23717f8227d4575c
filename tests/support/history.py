"""What clients did and were told: written line by line by them, read again as one ``History``.

Lines are JSON with a key ``k``:

    i        a write is about to commit: op, node, kind, begin, version, read, write
    ok       it was acknowledged: op, at
    fail     it was refused before its commit, or rolled back: op
    unknown  its commit ended with another error: op, why
    r        a read transaction: node, begin, end, version, op, total, registers, list, items
    bad      an error that no fault excuses: node, why

Rules:
    1. A write without an outcome is unknown: its client died.
    2. Times are CLOCK_MONOTONIC in seconds, one clock for all clients of a machine.
    3. A write's version is its place in the table ``log``, which the same transaction fills:
       every transaction says itself which ones it follows.
    4. A torn last line is ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

OK: Final = "ok"
FAIL: Final = "fail"
UNKNOWN: Final = "unknown"


@dataclass(slots=True)
class Write:
    """One transaction that meant to write."""

    op: str
    node: str
    kind: str
    """``bank``, ``append`` or ``register``."""
    begin: float
    version: int
    read: dict[str, Any]
    """What it saw: account → balance, list → length, or register → value."""
    write: dict[str, Any]
    """What it left: account → balance, list → new item, or register → value."""
    end: float | None = None
    outcome: str = UNKNOWN
    why: str = ""


@dataclass(slots=True)
class Read:
    """What one read transaction saw."""

    node: str
    begin: float
    end: float
    version: int
    op: str
    """The newest write that it saw."""
    total: int
    registers: dict[str, int]
    list: str
    items: list[int]


@dataclass(frozen=True, slots=True)
class Term:
    """A state of the Lease that was seen first at some time."""

    at: float
    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class Away:
    """A time in which a node's processes were stopped, or dead."""

    node: str
    begin: float
    end: float
    kind: str


@dataclass(frozen=True, slots=True)
class Applied:
    """A node says that it is at a position."""

    node: str
    txid: str
    checksum: str
    epoch: int


@dataclass(slots=True)
class History:
    """Everything about one run."""

    mode: str = "Async"
    writes: dict[str, Write] = field(default_factory=dict)
    reads: list[Read] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    final: list[str] = field(default_factory=list)
    """Ops by version, from 1 on, as all nodes have them at the end."""
    terms: list[Term] = field(default_factory=list)
    away: list[Away] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    accounts: int = 10
    opening: int = 100

    @property
    def acknowledged(self) -> list[Write]:
        """Writes that were acknowledged, by the time of it."""
        return sorted((w for w in self.writes.values() if w.outcome == OK), key=lambda w: w.end or 0.0)

    def lost(self) -> list[Write]:
        """Acknowledged writes that are not there at the end, by version."""
        there = set(self.final)
        return sorted((w for w in self.acknowledged if w.op not in there), key=lambda w: w.version)


class Recorder:
    """A client's file; each line is one write, so that a killed client loses nothing it said."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def say(self, k: str, **values: Any) -> None:
        """Write one line."""
        os.write(self._fd, (json.dumps({"k": k, **values}, separators=(",", ":")) + "\n").encode())


def read_lines(text: str) -> Iterable[dict[str, Any]]:
    """The lines of one file."""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def take(history: History, lines: Iterable[dict[str, Any]]) -> None:
    """Add a client's lines."""
    for line in lines:
        kind = line.pop("k")
        if kind == "i":
            history.writes[line["op"]] = Write(**line)
        elif kind == "r":
            history.reads.append(Read(**line))
        elif kind == "bad":
            history.bad.append(f"{line['node']}: {line['why']}")
        else:
            write = history.writes[line["op"]]
            write.outcome, write.end, write.why = kind, line.get("at"), line.get("why", "")


def read_files(history: History, paths: Sequence[Path]) -> None:
    """Add the files of all clients."""
    for path in paths:
        take(history, read_lines(path.read_text()))
