"""What stopped nodes have in their stores: every transaction once more, from the disk.

Opening a store brings it up to its log as a start does; so this is for nodes that are not
started again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sqlitecluster.ltx import decode
from sqlitecluster.store.node import NodeStore
from support.checkers import SHOWN, one_history
from support.history import Applied, History


def transactions(node: str, data: Path) -> Iterator[Applied]:
    """The positions that a node's chains lead through.

    Raises:
        LTXError: a stored transaction is damaged.
        AssertionError: a chain has a gap, or does not lead to the position.
    """
    store = NodeStore(data)
    try:
        for name in store.names():
            database = store.open(name)
            at = database.earliest()
            checksum: int | None = None
            for blob in database.since(at) or ():
                file = decode(blob)
                header, post = file.header, file.trailer.post_apply
                assert header.min_txid <= at + 1, f"{node} {name}: nothing leads from {at:x} to {header.min_txid:x}"
                if checksum is not None and header.min_txid == at + 1:
                    assert header.pre_apply == checksum, f"{node} {name}: {header.min_txid:x} does not continue {at:x}"
                at, checksum = header.max_txid, post
                yield Applied(node, f"{name} {at:x}", f"{post:x}", 0)
            have = database.position
            assert checksum is None or (have.txid, have.checksum) == (at, checksum), f"{node} {name}: ends at {at:x}"
    finally:
        store.close()


def compare(nodes: dict[str, Path]) -> list[str]:
    """What is wrong in the stores of nodes that had the same databases at the end."""
    found: list[Applied] = []
    wrong: list[str] = []
    for node, data in nodes.items():
        try:
            found += transactions(node, data)
        except Exception as error:  # whatever it is: the store cannot be read as it was left
            wrong.append(f"store: {type(error).__name__}: {error}")
        if not any(applied.node == node for applied in found):
            wrong.append(f"store: {node} has no transaction")
    return wrong + one_history(History(applied=found))[:SHOWN]
