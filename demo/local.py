"""``make demo-local``: two nodes without Kubernetes, real programs, and what arrives where.

    python -m demo.local [--seconds 20] [--rate 100]

The machine's package list is loaded with sqlite-utils into node 1's mount; Datasette
serves it from node 2's mount; a program goes on writing on node 1. A table shows the
position and the lag on both. It ends by itself; Ctrl-C ends it early. Nothing stays
behind.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from demo import packages

from support import ports, processes
from support.cluster import Cluster
from support.node import Node, StartError

NAME = "packages.db"


def step(text: str) -> None:
    """One line of the story."""
    print(f"• {text}", flush=True)


def main() -> int:
    """Entry of ``python -m demo.local``."""
    parser = argparse.ArgumentParser(prog="python -m demo.local", description="Two nodes and real programs.")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long the table is shown (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, default=100.0, help="commits a second of the writing program")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    folder = Path(tempfile.mkdtemp(prefix="sqlitecluster-demo-")).resolve()
    code = 1
    try:
        step(f"starting two nodes below {folder}")
        with Cluster(folder) as cluster:
            code = show(cluster, options)
            step("stopping")
    except KeyboardInterrupt:
        step("interrupted; everything is stopped")
        code = 130
    except StartError as error:
        print(f"the nodes did not start: {error}", file=sys.stderr)
    finally:
        processes.clear(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return code


def show(cluster: Cluster, options: argparse.Namespace) -> int:
    """The story itself."""
    one, two = cluster.primary, cluster.replica
    rows = packages.installed()
    step(f"loading {len(rows):,} packages of this machine into {one.mount / NAME} with sqlite-utils")
    packages.load(one.mount / NAME, rows)
    cluster.wait_synced(NAME)
    step(f"the replica has them: {two.mount / NAME} is at {(two.mount / f'{NAME}-pos').read_text().strip()}")
    port = ports.take_base()
    server = packages.serve(two.mount / NAME, port, cluster.folder / "datasette.log")
    command = [sys.executable, "-m", "demo.program", str(one.mount / NAME), str(options.rate)]
    env = processes.environment(PYTHONPATH=f"{processes.root()}:{processes.environment()['PYTHONPATH']}")
    program = subprocess.Popen(command, env=env)
    try:
        step(f"Datasette serves the replica's file at http://127.0.0.1:{port}/")
        if not packages.wait_served(f"http://127.0.0.1:{port}/", server):
            print((cluster.folder / "datasette.log").read_text()[-2000:], file=sys.stderr)
            return 1
        show_page(port)
        refuse(two)
        live(cluster, options.seconds)
    finally:
        for process in (program, server):
            processes.end(process, limit_s=20)
    return summary(cluster, one, two)


def show_page(port: int) -> None:
    """A page as a browser gets it, and a search."""
    step("its page of the largest packages:")
    for line in packages.fetch_page(f"http://127.0.0.1:{port}/packages/packages?_sort_desc=kib"):
        print(f"    {line}", flush=True)
    found = packages.fetch_json(f"http://127.0.0.1:{port}/packages/packages.json?_search=library&_size=1&_shape=object")
    step(f"a full-text search on the replica for “library” finds, for one, {next(iter(found), 'nothing')}")


def refuse(two: Node) -> None:
    """What a writer on the replica is told."""
    with contextlib.closing(sqlite3.connect(two.mount / NAME, timeout=0)) as db:
        try:
            db.execute("DELETE FROM packages")
        except sqlite3.OperationalError as error:
            step(f"a program that writes on the replica is told: {error}")


def live(cluster: Cluster, seconds: float) -> None:
    """The table: rewritten in place on a terminal, a line every two seconds elsewhere."""
    terminal = sys.stdout.isatty()
    step("position (transaction) and lag while the program goes on writing:")
    print(f"    {'seconds':>7}  {'node 1':>18}  {'node 2':>18}  {'lag':>8}  {'rows on node 2':>14}", flush=True)
    began = time.monotonic()
    while (elapsed := time.monotonic() - began) < seconds:
        texts = [(node.mount / f"{NAME}-pos").read_text().split("/")[0] for node in cluster.nodes]
        with contextlib.closing(sqlite3.connect(cluster.replica.mount / NAME, timeout=10)) as db:
            rows = db.execute("SELECT count(*) FROM views").fetchone()[0]
        lag = f"{int((cluster.replica.mount / '.lag').read_text())} ms"
        line = f"    {elapsed:>7.1f}  {int(texts[0], 16):>18,}  {int(texts[1], 16):>18,}  {lag:>8}  {rows:>14,}"
        print(line, end="\r" if terminal else "\n", flush=True)
        time.sleep(0.25 if terminal else 2.0)
    if terminal:
        print()


def summary(cluster: Cluster, one: Node, two: Node) -> int:
    """Compare both nodes at the end."""
    cluster.wait_synced(NAME)
    counts = []
    for node in (one, two):
        with contextlib.closing(sqlite3.connect(node.mount / NAME, timeout=30)) as db:
            counts.append(db.execute("SELECT (SELECT count(*) FROM packages), (SELECT count(*) FROM views)").fetchone())
    positions = [(node.mount / f"{NAME}-pos").read_text().strip() for node in (one, two)]
    same = counts[0] == counts[1] and positions[0] == positions[1]
    step(f"node 1 has {counts[0][0]:,} packages and {counts[0][1]:,} views at {positions[0]}")
    step(f"node 2 has {counts[1][0]:,} packages and {counts[1][1]:,} views at {positions[1]}")
    step("both nodes hold the same" if same else "THE NODES DIFFER")
    return 0 if same else 1


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
