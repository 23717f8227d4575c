"""A replicator process that only applies: ``python -m support.apply_child FOLDER STATE_FD SUP_FD``.

Takes every file of ``FOLDER/work`` in order of its name (``*.ltx``, or ``*.image`` with
its position in the name), then ends without giving the locks back.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.services import SupervisorLink
from sqlitecluster.replicator.work import Install, Marker, Transaction, Work
from support.replica import Replica, wait_for


def work_of(path: Path) -> Work:
    """The work that a file stands for."""
    if path.suffix == ".ltx":
        return Transaction("x.db", path.read_bytes())
    _order, txid, checksum, page_size, pages = path.stem.split("-")
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    return Install("x.db", copy, int(page_size), int(pages), Position(int(txid), int(checksum)), 5, diverged=False)


def main() -> None:
    """Apply everything and end."""
    folder, state_fd, link = Path(sys.argv[1]), int(sys.argv[2]), SupervisorLink.from_fd(int(sys.argv[3]))
    link.receive_kept()
    replica = Replica(folder, pages=14, state_fd=state_fd, supervisor=link)
    applier = replica.applier()
    applier.start()
    position = replica.store.open("x.db").position
    done = threading.Event()
    for path in sorted((folder / "work").iterdir()):
        if path.suffix in (".ltx", ".image") and not (path.suffix == ".image" and position.txid):
            applier.queue.put(work_of(path))
    applier.queue.put(Marker(done.set))
    done.wait(100)
    wait_for(lambda: applier.quiet)
    applier.stop()
    problems = replica.node.problems.all()
    replica.store.close()
    sys.exit(f"{problems}" if problems or not done.is_set() else 0)


if __name__ == "__main__":
    main()
