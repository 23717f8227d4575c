"""Bugs for real nodes: production functions that are replaced in the processes of one node.

``environment(bug)`` is what such a node is started with (``Node.extra``). It puts this folder before
all others in the interpreter's path, where ``sitecustomize`` calls the bug's function. The
production code has no switch for any of this. Bugs of the simulation are in
``support.simulation.planted``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from support import processes

VARIABLE: Final = "PLANTED_BUG"


def wal_reset_not_parked() -> None:
    """The mount takes everything for captured: logs are begun anew, cut and removed as programs wish."""
    from sqlitecluster.mount.database import Database

    Database.is_captured = lambda _self: True  # type: ignore[method-assign]


def verifier_off() -> None:
    """The verifier looks at nothing, and finds everything right."""
    from sqlitecluster.store.verifier import Verifier

    Verifier.step = lambda _self: []  # type: ignore[method-assign]


BUGS: Final[dict[str, Callable[[], None]]] = {
    bug.__name__.replace("_", "-"): bug for bug in (wal_reset_not_parked, verifier_off)
}


def environment(bug: str) -> dict[str, str]:
    """What is added to the environment of a node's processes."""
    assert bug in BUGS, f"no bug is called {bug}"
    paths = (str(Path(__file__).parent), processes.environment()["PYTHONPATH"])
    return {VARIABLE: bug, "PYTHONPATH": os.pathsep.join(paths)}
