"""Bit rot on purpose: one flipped bit in a file of a data directory, behind the node's back.

The byte is changed in the backing file itself; the verifier drops the kernel's cache of a
piece before it reads it, so what it sees is the file.
"""

from __future__ import annotations

import os
import random
import re
from dataclasses import dataclass
from pathlib import Path

from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.ltx import decode
from support import images
from support.node import Node

PAGE = 4096
CHECKSUMS_HEAD = 4096
_METRIC = re.compile(r"^(sqlitecluster_[a-z_]+)(?:\{([^}]*)\})? (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Flip:
    """What was done."""

    node: Node
    kind: str
    database: str
    path: Path
    offset: int
    bit: int

    def __str__(self) -> str:
        return f"{self.kind} of {self.database or 'the node'} on {self.node.name}: {self.path.name} byte {self.offset} bit {self.bit}"  # noqa: E501


def flip(path: Path, offset: int, bit: int) -> None:
    """Change one bit and make sure that the disk has it."""
    fd = os.open(path, os.O_RDWR)
    try:
        before = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([before[0] ^ 1 << bit]), offset)
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def in_page(rng: random.Random, node: Node, name: str) -> Flip:
    """Somewhere in the database file."""
    path = images.backing(node, name)
    return _done(Flip(node, "page", name, path, rng.randrange(path.stat().st_size), rng.randrange(8)))


def in_old_page(rng: random.Random, node: Node, name: str) -> Flip | None:
    """In the older half of a database that grows: pages that its writer does not touch any more."""
    path = images.backing(node, name)
    pages = path.stat().st_size // PAGE
    if pages < 12:
        return None
    return _done(Flip(node, "live", name, path, rng.randrange(3 * PAGE, pages // 2 * PAGE), rng.randrange(8)))


def in_checksums(rng: random.Random, node: Node, name: str) -> Flip:
    """The checksum of some page."""
    path, pages = images.backing(node, name, "checksums"), images.backing(node, name).stat().st_size // PAGE
    return _done(
        Flip(node, "checksums", name, path, CHECKSUMS_HEAD + rng.randrange(8 * pages), rng.randrange(7))
    )  # not the flag bit's byte order: every bit of a word counts


def in_ltx(rng: random.Random, node: Node, name: str) -> Flip | None:
    """Some stored LTX file of any level; None while there is none, or if nothing of it comes out otherwise."""
    files = sorted(images.backing(node, name, "ltx").rglob("*.ltx"))
    if not files:
        return None
    path = rng.choice(files)
    data = path.read_bytes()
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    if _is_harmless(data, at, bit):
        return None
    return _done(Flip(node, "ltx", name, path, at, bit))


def _is_harmless(data: bytes, at: int, bit: int) -> bool:
    """Whether the file says the same: its checksum is one of the pages, not of the LZ4 blocks that hold them.

    Where a run of zeros is copied from, for example, may change without a trace.
    """
    flipped = bytearray(data)
    flipped[at] ^= 1 << bit
    try:
        return decode(bytes(flipped)).pages == decode(data).pages
    except SQLiteClusterError:
        return False


def in_state(rng: random.Random, node: Node, name: str) -> Flip:
    """A state word that an orderly stop left (the node is stopped), but not the one that says so."""
    word = rng.choice([3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 15, 18, 19, 20, 21])
    path = images.backing(node, name, "state")
    return _done(Flip(node, "state", name, path, 8 * word + rng.randrange(8), rng.randrange(8)))


def in_log(rng: random.Random, node: Node) -> Flip | None:
    """The used part of the newest log segment; None while there is nothing in it."""
    segments = sorted((node.data / "log").glob("*.log"))
    if not segments:
        return None
    used = len(segments[-1].read_bytes().rstrip(b"\0"))
    if used < 200:
        return None
    return _done(Flip(node, "log", "", segments[-1], rng.randrange(used), rng.randrange(8)))


def _done(made: Flip) -> Flip:
    flip(made.path, made.offset, made.bit)
    return made


def metric(node: Node, name: str, **labels: str) -> float:
    """The value of a metric; 0 when it is not there."""
    wanted = ",".join(f'{key}="{value}"' for key, value in labels.items())
    for found, have, value in _METRIC.findall(node.get("/metrics").decode()):
        if found == f"sqlitecluster_{name}" and have == wanted:
            return float(value)
    return 0.0


def repaired(node: Node, kind: str, database: str) -> float:
    """How often a node mended something of a kind."""
    return metric(node, "damage_repaired_total", db=database, kind=kind)


def found(node: Node, kind: str, database: str) -> float:
    """How often a node found something of a kind."""
    return metric(node, "damage_found_total", db=database, kind=kind)
