"""Who should be the primary: an order of nodes by what they hold. Pure.

Rules:
    1. More counts by (epoch of the newest transaction, number of transactions); a tie goes
       to the node that held the Lease last, then to the lowest name, so that two nodes that
       see the same never step forward at once.
    2. A node that holds nothing yields to every node that holds something.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlitecluster.election.messages import NodeState, Positions


def weight(positions: Positions) -> tuple[int, int, int]:
    """How much a node holds: (newest epoch, transactions, databases)."""
    if not positions:
        return (0, 0, 0)
    newest = max(epoch for epoch, _txid in positions.values())
    return (newest, sum(txid for _epoch, txid in positions.values()), len(positions))


def preference(node: NodeState, last: str) -> tuple[tuple[int, int, int], bool, tuple[int, str]]:
    """The sort key, the best is the greatest; ``last`` is the pod that held the Lease before."""
    return (weight(node.positions), node.pod == last, _lowest_first(node.pod))


def best(nodes: Iterable[NodeState], last: str) -> NodeState | None:
    """The node that should be the primary."""
    return max(nodes, key=lambda node: preference(node, last), default=None)


def _lowest_first(pod: str) -> tuple[int, str]:
    _, _, ordinal = pod.rpartition("-")
    if ordinal.isascii() and ordinal.isdigit() and len(ordinal) < 10:
        return (-int(ordinal), "")
    return (-(1 << 40), "".join(chr(0x10FFFF - ord(c)) for c in pod))
