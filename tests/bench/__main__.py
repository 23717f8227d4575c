"""``python -m bench``: one run, one table and JSON; plain ext4 and our primary alternate.

    python -m bench                                   all rows
    python -m bench --only wal-normal --seconds 3 --rounds 5
    python -m bench --json FILE                       the same figures for machines

The exit code is not zero when a promised figure is missed.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from bench import memory, quorum, rows, timing
from bench.rows import Row
from runner.results import machine
from support import processes
from support.cluster import Cluster

Measure = Callable[[Cluster, Path, float, int], list[Row]]


def _compared(name: str) -> Measure:
    return functools.partial(rows.compare, name)


MEASURES: dict[str, Measure] = {
    **{name: _compared(name) for name in rows.COMPARED},
    "reads": rows.reads,
    "lag": timing.lag,
    "full-speed": timing.full_speed,
    "quorum": quorum.quorum,
    "memory": memory.memory,
    "restart": timing.restart,
}


def line(row: Row) -> str:
    """One line of the table."""
    plain = f"{row.plain:,.0f}" if row.plain is not None else ""
    ours = f"{row.ours:,.0f}" if row.ours >= 1000 else f"{row.ours:.2f}"
    ratio = f"{row.ratio:.2f}" if row.ratio is not None else ""
    verdict = "ok" if row.good else "MISSED"
    return f"{row.name:<16} {plain:>9} {ours:>9} {row.unit:<9} {ratio:>6}  {row.limit:<14} {verdict:<7} {row.what}"


def run(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Measure with one cluster."""
    names = options.only or list(MEASURES)
    plain = folder / "plain"
    plain.mkdir()
    found: list[Row] = []
    head = f"{'':<16} {'plain':>9} {'ours':>9} {'':<9} {'ratio':>6}"
    with Cluster(folder / "cluster", has_failpoints=False) as cluster:
        print(head, flush=True)
        for name in names:
            for row in MEASURES[name](cluster, plain, options.seconds, options.rounds):
                found.append(row)
                print(line(row), flush=True)
    return found


def main() -> int:
    """Entry of ``python -m bench``."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure against plain ext4.")
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), metavar="ROW", help=", ".join(MEASURES))
    parser.add_argument("--seconds", type=float, default=4.0, help="length of one measurement (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of plain and ours (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to a file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="sqlitecluster-bench-")).resolve()
    try:
        found = run(options, folder)
    except KeyboardInterrupt:
        return 130
    finally:
        processes.clear(folder)
        shutil.rmtree(folder, ignore_errors=True)
    report = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine(),
        "seconds": options.seconds,
        "rounds": options.rounds,
        "rows": [{**asdict(row), "ratio": row.ratio} for row in found],
    }
    print(json.dumps(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    missed = [row.name for row in found if not row.good]
    print(
        f"{len(found) - len(missed)} of {len(found)} figures kept"
        + (f"; missed: {', '.join(missed)}" if missed else "")
    )
    return 1 if missed else 0


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
