"""Whether a node that may take the Lease should: what it and its peers hold decides. Pure.

``machine.Elector`` asks after each ``PeersAnswered``.

Rules:
    1. A reachable peer that says its fence is open is the primary, whatever the Lease says.
    2. A reachable better candidate goes first; after ``patience`` it had its chance.
    3. A node that holds nothing never begins a cluster's history again: it needs the word
       of every other pod that they hold nothing either.
    4. The new epoch is above everything that this node, its peers or the Lease know.
    5. A holder that may still be writing by agreement with others is left alone, see ``holding``.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlitecluster.election.holding import still_held
from sqlitecluster.election.instants import Instant
from sqlitecluster.election.messages import Lack, NodeState, PeersAnswered
from sqlitecluster.election.observation import Claim
from sqlitecluster.election.quorum import ADVICE, lacking, obstacle
from sqlitecluster.election.ranking import preference, weight
from sqlitecluster.election.record import LeaseRecord


@dataclass(frozen=True, slots=True)
class Verdict:
    """Take it in ``epoch``, or (``epoch`` 0) do not, because."""

    epoch: int
    code: str = ""
    reason: str = ""
    patient: bool = False
    """Only for a while: another node should go first."""
    loss: bool = False
    """Only because a person accepts that acknowledged transactions may be lost."""
    lacks: tuple[Lack, ...] = ()
    """What others hold more of; perhaps it can be fetched first."""


def judge(
    claim: Claim,
    record: LeaseRecord,
    answer: PeersAnswered,
    known_epoch: int,
    *,
    impatient: bool = False,
    acks: int = 0,
) -> Verdict:
    """Decide with the newest answers of all who can be reached; ``impatient``: better ones had their chance.

    ``acks``: how many acknowledgements are configured here.
    """
    local, peers = answer.local, answer.peers
    if record.cluster_id and local.cluster_id and record.cluster_id != local.cluster_id:
        why = f"this node's data belong to cluster {local.cluster_id}, the Lease to {record.cluster_id}"
        return Verdict(0, "ClusterMismatch", why)
    living = next((peer for peer in peers if peer.fence_ms > 0), None)
    if living is not None:
        return Verdict(0, "", f"{living.pod} says that it is the primary")
    if why := still_held(claim, record, answer):
        return Verdict(0, "", why)
    if local.blank and record.epoch > 0 and not _all_blank(answer):
        why = "this node holds no data, and not every other pod could be asked; it does not begin a new history"
        return Verdict(0, "EmptyNode", why)
    better = _better(record, answer)
    if better is not None and claim is not Claim.OFFERED and not impatient:
        return Verdict(0, "", f"{better.pod} should go first", patient=True)
    if claim is Claim.OFFERED or not answer.asked:
        return Verdict(next_epoch(claim, record, answer, known_epoch))
    why, lacks = obstacle(record, answer, acks), lacking(record, answer)
    if why and not record.loss_accepted(local.pod):
        return Verdict(0, "QuorumLost", f"{why}; {ADVICE}", lacks=lacks)
    return Verdict(next_epoch(claim, record, answer, known_epoch), loss=bool(why), lacks=lacks)


def next_epoch(claim: Claim, record: LeaseRecord, answer: PeersAnswered, known_epoch: int) -> int:
    """The epoch to take the Lease in."""
    seen = max(record.epoch, known_epoch, answer.local.epoch, *(peer.epoch for peer in answer.peers))
    if claim is Claim.OFFERED and seen == record.epoch > answer.local.epoch:
        return record.epoch
    return seen + 1


def may_lead(node: NodeState, record: LeaseRecord, now: Instant) -> bool:
    """Whether a node is allowed to be the primary at all."""
    if not node.candidate or not record.may_lead(node.pod, now.real_ns):
        return False
    return not (record.cluster_id and node.cluster_id and node.cluster_id != record.cluster_id)


def _better(record: LeaseRecord, answer: PeersAnswered) -> NodeState | None:
    mine = preference(answer.local, record.pod)
    rivals = [peer for peer in answer.peers if may_lead(peer, record, answer.now)]
    ahead = [peer for peer in rivals if preference(peer, record.pod) > mine]
    return max(ahead, key=lambda peer: preference(peer, record.pod), default=None)


def _all_blank(answer: PeersAnswered) -> bool:
    return len(answer.peers) >= answer.known and all(weight(peer.positions) == (0, 0, 0) for peer in answer.peers)
