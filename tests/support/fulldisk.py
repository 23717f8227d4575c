"""A store on a real file system that is full, and has room again."""

from __future__ import annotations

import os
import random
from pathlib import Path

from sqlitecluster.errors import NoSpace
from support.faultwork import FaultyWork
from support.storeoracle import Boot, Wrong, release
from support.storetrace import NODE_ID, Profile

_STEPS = {"append": 10, "append_file": 2, "sync": 3, "cut": 3, "spare": 2, "join": 1, "flush": 1}


def fill_and_go_on(folder: Path, rng: random.Random, boot: Boot) -> None:
    """Work until the disk is full and beyond; then there is room, and everything goes on."""
    boot.number = 1
    data = folder / "data"
    data.mkdir()
    (data / "node-id").write_text(f"{NODE_ID}\n")
    work = FaultyWork(data, None, rng, Profile(_STEPS, databases=2))
    _fill(folder / "filler", rng.randrange(0, 60_000))
    refused = 0
    for _ in range(400):
        positions = [base.model.store.position for base in work.bases.values()]
        try:
            with work.refused(None):
                work.step(rng.choices(list(_STEPS), list(_STEPS.values()))[0])
                continue
        except NoSpace:
            pass
        refused += positions == [base.model.store.position for base in work.bases.values()]
        if refused > 30:
            break
    if not refused:
        raise Wrong("the disk was never full")
    (folder / "filler").unlink()
    work.go_on()
    found = {name: base.model.store.position for name, base in work.bases.items()}
    work.end()
    boot.number = 2
    store = work._opened()
    for name, position in found.items():
        if store.open(name).position != position:
            raise Wrong(f"{name}: at {store.open(name).position}, it was at {position}")
        if len(list(store.open(name).since(0) or ())) == 0:
            raise Wrong(f"{name}: the chain does not begin at the beginning")
    release(store)


def _fill(path: Path, left: int) -> None:
    room = os.statvfs(path.parent)
    size = room.f_bavail * room.f_frsize - 300_000 - left
    if size > 0:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        os.posix_fallocate(fd, 0, size)
        os.close(fd)
