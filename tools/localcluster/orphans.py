"""Clusters whose state folder is gone, such as a killed test's: what is left of them can still be found.

Every cluster that starts writes its folder's path to a place that a reboot empties, as
its processes do not survive one either.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from localcluster.layout import Layout

RECORDS = Path("/run/sqlitecluster-local")


def record(layout: Layout, records: Path = RECORDS) -> None:
    """Note that a cluster is going to run."""
    records.mkdir(parents=True, exist_ok=True)
    (records / layout.identity).write_text(str(layout.state))


def forget(layout: Layout, records: Path = RECORDS) -> None:
    """Note that nothing of it is left."""
    (records / layout.identity).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        records.rmdir()


def orphans(records: Path = RECORDS) -> Iterator[Layout]:
    """Clusters that were started and whose folder is gone."""
    for path in sorted(records.glob("*")) if records.exists() else ():
        layout = Layout(Path(path.read_text()))
        if path.name == layout.identity and not layout.run.exists():
            yield layout
