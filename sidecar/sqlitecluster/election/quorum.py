"""Whether a candidate may take over without losing anything that was acknowledged. Pure.

``candidacy.judge`` asks with the answers of all who could be reached.

With V members and n acknowledgements every acknowledged transaction is on n + 1 of the V.
Any V - n members have at least one of these among them.

Rules:
    1. A candidate needs the promises of V - n members, itself included if it is one: each
       has made an epoch above the Lease's durable before it said where it stands, and takes
       nothing of an older primary any more.
    2. Of all that these hold, it holds the newest (epoch, TXID) of each database itself; what it
       lacks it fetches from them before it asks again (``lacking``): of several databases
       each can be newest at another member.
    3. The volume of the last holder needs nobody: it has everything that was acknowledged.
       So has the target of a hand-off (``Claim.OFFERED``).
    4. Nothing was promised (no acknowledgements in the Lease), or less than that
       (``degraded-since``): the best position that can be reached goes first, as always. It
       fetches, too, but what cannot be fetched does not hold it up.
    5. Where the Lease does not say what was promised (it was made again, set back behind
       data that a node has, or spoiled) every pod must answer.
    6. A person can accept the loss (``DataLoss``); ``candidacy`` asks for that.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlitecluster.election.messages import Lack, NodeState, PeersAnswered
from sqlitecluster.election.record import Holder, LeaseRecord
from sqlitecluster.units import format_node_id

ADVICE = (
    "bring pods and volumes back; when they are lost for good, annotate the SQLiteCluster with "
    "sqlitecluster.dev/promote=accept-data-loss: acknowledged transactions may be lost then"
)


def obstacle(record: LeaseRecord, answer: PeersAnswered, acks: int) -> str:
    """Why this node may not take over; empty when it may. ``acks``: what is configured here."""
    why, voters = _voters(record, answer, acks)
    lacks = () if why else _lacks(answer.local, voters)
    if lacks:
        return f"{lacks[0].pod} holds more of {lacks[0].name} than this node does; only the newest may take over"
    return why


def lacking(record: LeaseRecord, answer: PeersAnswered) -> tuple[Lack, ...]:
    """The newest of each database that others hold more of, among those that take nothing of older epochs any more."""
    return _lacks(answer.local, _promised(record, answer))


def _voters(record: LeaseRecord, answer: PeersAnswered, acks: int) -> tuple[str, list[NodeState]]:
    """Why too few answer (or nothing), and those that must not hold more than this node."""
    promise, local = record.promise, answer.local
    unknown = unknown_promise(record, answer, acks)
    if unknown:
        voters = _promised(record, answer)
        if len(voters) < answer.known:
            few = f"{unknown}, so every other pod must answer: {len(voters)} of {answer.known} do{_silent(answer)}"
            return few, []
        return "", voters
    if promise.degraded_ns is not None or not promise.is_given or (local.store and local.store == promise.store):
        return "", []
    voters = [peer for peer in _promised(record, answer) if peer.store in promise.members - {local.store}]
    count = len({peer.store for peer in voters}) + (local.store in promise.members)
    if count >= promise.needed:
        return "", voters
    missing = promise.members - {peer.store for peer in voters} - {local.store}
    few = (
        f"{promise.needed} of the {len(promise.members)} members must answer before anybody takes over "
        f"({promise.acks} acknowledged each commit), {count} answer; missing: "
        f"{', '.join(format_node_id(store) for store in sorted(missing))}{_silent(answer)}"
    )
    return few, []


def unknown_promise(record: LeaseRecord, answer: PeersAnswered, acks: int) -> str:
    """Why the Lease does not tell what was promised; empty when it does."""
    promise = record.promise
    if promise.spoiled:
        return "the Lease's members cannot be read"
    if acks <= 0 and not promise.is_given:
        return ""
    if record.epoch > 0 and record.renew_real_ns is None:
        return "the Lease was made again and does not name its members"
    for node in (answer.local, *answer.peers):
        newest = max((epoch for epoch, _txid in node.positions.values()), default=0)
        if newest > record.epoch:
            return f"the Lease is older (epoch {record.epoch}) than what {node.pod} holds (epoch {newest})"
    return ""


def _promised(record: LeaseRecord, answer: PeersAnswered) -> list[NodeState]:
    if answer.asked <= record.epoch:
        return []  # asked before the Lease's newest holder: it may have written since
    return [peer for peer in answer.peers if peer.epoch >= answer.asked]


def _lacks(local: NodeState, voters: Iterable[NodeState]) -> tuple[Lack, ...]:
    newest: dict[str, Lack] = {}
    for voter in voters:
        for name, position in voter.positions.items():
            known = newest.get(name)
            if position > (known.position if known is not None else local.positions.get(name, (0, 0))):
                newest[name] = Lack(voter.pod, name, position)
    return tuple(newest[name] for name in sorted(newest))


def _silent(answer: PeersAnswered) -> str:
    heard = {answer.local.pod, *(peer.pod for peer in answer.peers)}
    silent = sorted({Holder.parse(pod).pod for pod in answer.pods} - heard)
    return f" (no answer from {', '.join(silent)})" if silent else ""
