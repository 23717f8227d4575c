"""Nothing is thrown away in silence: what leaves the chain goes to ``<data>/lost+found``.

    lost+found/<UTC time>-<encoded name>-<reason>/     the files, and reason.json

Called wherever the store, recovery or apply takes something out of use.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

from sqlitecluster.store.disk import Disk
from sqlitecluster.units import encode_name

_COPY_BYTES: Final = 1 << 20


def keep(
    data_dir: Path,
    disk: Disk,
    now_ms: int,
    name: str,
    reason: str,
    paths: Sequence[Path],
    blobs: Sequence[tuple[str, bytes]] = (),
    position: str = "",
) -> Path:
    """Move files, and write blobs, into a new folder of lost+found; returns it. Durable at return.

    ``position`` is the database's at this moment, for who reads it later.
    """
    folder = _make_folder(data_dir, disk, now_ms, name, reason)
    for file_name, blob in blobs:
        disk.write_file(folder / file_name, (blob,), sync_dir=False)
    moved = [file_name for file_name, _ in blobs]
    for path in paths:
        target = _free_name(folder / path.name)
        disk.replace(path, target)
        moved.append(target.name)
    _write_reason(folder, disk, now_ms, name, reason, moved, position)
    return folder


def copy(data_dir: Path, disk: Disk, now_ms: int, name: str, reason: str, path: Path) -> Path:
    """Keep a copy of a file that itself stays in use. Durable at return."""
    with open(path, "rb") as file:
        return copy_open(data_dir, disk, now_ms, name, reason, path.name, file)


def copy_open(
    data_dir: Path, disk: Disk, now_ms: int, name: str, reason: str, file_name: str, source: BinaryIO
) -> Path:
    """Keep a copy of a file that is open already. Durable at return."""
    folder = _make_folder(data_dir, disk, now_ms, name, reason)
    disk.write_file(folder / file_name, iter(partial(source.read, _COPY_BYTES), b""), sync_dir=False)
    _write_reason(folder, disk, now_ms, name, reason, [file_name])
    return folder


def count(data_dir: Path) -> int:
    """How many folders are there."""
    try:
        return sum(entry.is_dir() for entry in os.scandir(data_dir / "lost+found"))
    except FileNotFoundError:
        return 0


def _make_folder(data_dir: Path, disk: Disk, now_ms: int, name: str, reason: str) -> Path:
    parent = data_dir / "lost+found"
    disk.make_folder(parent)
    when = datetime.fromtimestamp(now_ms / 1000, UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    short = re.sub(r"[^a-z0-9]+", "-", reason.lower()).strip("-")[:60]
    # A name of 255 bytes plus time and reason would be too long for a file name; reason.json has it whole.
    folder = _free_name(parent / f"{when}-{encode_name(name)[:140]}-{short}")
    disk.make_folder(folder)
    disk.fsync_dir(parent)
    return folder


def _free_name(path: Path) -> Path:
    candidate, n = path, 1
    while os.path.lexists(candidate):
        n += 1
        candidate = path.with_name(f"{path.name}.{n}")
    return candidate


def _write_reason(
    folder: Path, disk: Disk, now_ms: int, name: str, reason: str, files: list[str], position: str = ""
) -> None:
    said = {"database": name, "reason": reason, "time_ms": now_ms, "position": position, "files": files}
    text = json.dumps(said, indent=2)
    disk.write_file(folder / "reason.json", (text.encode() + b"\n",))
