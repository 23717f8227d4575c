"""The start of capture for one database: is what the store knows of its image to be believed?

The store itself brings page checksums and WAL mark up to the log when it is opened, so a
start costs O(changed). Here remains the question whether they add up.

Called by ``capture_database`` once per database and replicator process.
"""

from __future__ import annotations

from typing import Final

from sqlitecluster.replicator.capture_publish import CapturedDatabase
from sqlitecluster.store import behind

CODE: Final = "ChangedBehind"


def recover(database: CapturedDatabase) -> None:
    """Show the position, and ask for a comparison with the image where the store is in doubt."""
    store = database.store
    if store.needs_compare:
        database.want_compare("what was written last may not be captured")
    if database.is_new:
        return
    database.show_position()
    checksums = store.checksums
    if (checksums.rolling, checksums.count) != (store.position.checksum, store.commit):
        database.want_compare("page checksums do not add up to the position")
    elif not database.compare_wanted and behind.was_written(store):
        text = (
            "something else than this node wrote the file while the node was stopped; "
            "it is compared with what was committed, and what differs becomes one transaction"
        )
        database.node.problems.report(CODE, text, database.name)
        database.want_compare("it was written behind the node's back")
