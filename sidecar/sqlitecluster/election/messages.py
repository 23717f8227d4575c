"""What the elector is told (events) and what it wants done (actions): frozen values only.

The adapter turns answers of the API, of peers and of its own node into events, calls
``Elector.step``, and carries the returned actions out in their order.

Rules for adapters:
    1. At most one of ``ReadLease`` and ``PutLease`` is in flight; each is answered by one
       event, at the latest after the retry period (``LeaseFailed``).
    2. ``sent`` is read before the first byte of a request leaves, ``received`` after the
       last byte of the answer has come.
    3. ``SetFence`` and ``Demote`` take effect at once. What takes long (``BecomePrimary``,
       ``Drain``, …) runs beside the clockwork of ``Tick``.
    4. ``Note`` is durable before the next action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlitecluster.election.instants import Instant
from sqlitecluster.election.record import LeaseRecord

Positions = Mapping[str, tuple[int, int]]
"""For each database (epoch of its newest transaction, TXID)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What a node says about itself."""

    pod: str
    uid: str = ""
    epoch: int = 0
    """The newest epoch that it has seen, durably."""
    candidate: bool = True
    cluster_id: str = ""
    positions: Positions = field(default_factory=dict)
    fence_ms: int = 0
    """As primary: milliseconds for which its fence stays open; 0: it acknowledges nothing."""
    address: str = ""
    """``host:port`` of its peers address."""
    store: int = 0
    """Store id: it stands for the volume. 0: not told."""
    never_leads: bool = False
    """It is no candidate by its configuration: not just while it stops."""
    pledged_to: str = ""
    """A holder (pod and uid) that it promised not to take over from; see ``holding``."""
    pledged_ms: int = 0
    """For how long that promise still binds it."""

    @property
    def blank(self) -> bool:
        """It belongs to no cluster yet and holds nothing."""
        return not self.cluster_id and not self.positions


# -- events --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passes."""

    now: Instant


@dataclass(frozen=True, slots=True)
class LeaseRead:
    """The Lease was read (``ReadLease``, or a watch told it); ``record`` None: there is none."""

    record: LeaseRecord | None
    sent: Instant
    received: Instant
    watched: bool = False
    """Told by a watch: no answer to ``ReadLease``."""


@dataclass(frozen=True, slots=True)
class LeasePut:
    """``PutLease`` was done; ``record`` is what the server stored."""

    record: LeaseRecord
    sent: Instant
    received: Instant


@dataclass(frozen=True, slots=True)
class LeaseConflict:
    """``PutLease`` was refused: the Lease is another one by now, or is gone."""

    received: Instant


@dataclass(frozen=True, slots=True)
class LeaseFailed:
    """No usable answer; a PUT may still have been, or still be, carried out."""

    reason: str
    sent: Instant
    received: Instant


@dataclass(frozen=True, slots=True)
class PeersAnswered:
    """``AskPeers`` is done: this node, and the others that answered in time."""

    local: NodeState
    peers: tuple[NodeState, ...]
    known: int
    """Pods of the cluster beside this one, reachable or not."""
    now: Instant
    asked: int = 0
    """The epoch of ``AskPeers``, filled in by the elector: who answered has promised it."""
    pods: frozenset[str] = frozenset()
    """All pods (with their uid) as the API listed them last; empty: not known."""


@dataclass(frozen=True, slots=True)
class Opened:
    """``BecomePrimary`` is done: programs can write."""

    epoch: int
    now: Instant


@dataclass(frozen=True, slots=True)
class NotOpened:
    """``BecomePrimary`` failed."""

    epoch: int
    reason: str
    now: Instant


@dataclass(frozen=True, slots=True)
class Drained:
    """``Drain`` is done: nothing is written, and the target has everything."""

    now: Instant


@dataclass(frozen=True, slots=True)
class NotDrained:
    """``Drain`` was given up."""

    reason: str
    now: Instant


@dataclass(frozen=True, slots=True)
class HandOffReady:
    """A peer says that the Lease is ours now; ``record`` is what the server answered to it."""

    record: LeaseRecord
    gap_ms: int
    """Since its programs wait, when it sent this."""
    total_ms: int
    """Since it began with the hand-off."""
    now: Instant


@dataclass(frozen=True, slots=True)
class NewerEpoch:
    """Somebody knows of a newer epoch than the Lease tells: what this node promised, or a replica promised."""

    epoch: int
    now: Instant


@dataclass(frozen=True, slots=True)
class OthersKnown:
    """The API listed the cluster's pods: those beside this one that may lead, as ``<pod>_<uid>``."""

    others: frozenset[str]
    now: Instant


@dataclass(frozen=True, slots=True)
class PledgeAnswered:
    """One of those that ``AskPledges`` asked has promised, or (``why``) has not."""

    who: str
    epoch: int
    sent: Instant
    now: Instant
    why: str = ""


@dataclass(frozen=True, slots=True)
class DataPath:
    """As primary: what the data path and the list of pods say about volumes (store ids), at this very moment."""

    in_sync: frozenset[int]
    """Of connected replicas that have acknowledged everything."""
    spare: frozenset[int]
    """Everything is acknowledged by enough members without this one."""
    pods: frozenset[int]
    """Of pods that said so."""
    gone: frozenset[int]
    """Members' that no pod has any more, for a while."""
    now: Instant
    enough: bool = False
    """So many that count hold everything as commits ask for, zones considered."""
    short: bool = False
    """A commit waits for acknowledgements that may not come."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """The node stops: give the role away."""

    now: Instant


Event = (
    Tick
    | LeaseRead
    | LeasePut
    | LeaseConflict
    | LeaseFailed
    | PeersAnswered
    | Opened
    | NotOpened
    | Drained
    | NotDrained
    | HandOffReady
    | NewerEpoch
    | OthersKnown
    | PledgeAnswered
    | DataPath
    | Terminate
)

# -- actions -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReadLease:
    """GET the Lease."""


@dataclass(frozen=True, slots=True)
class PutLease:
    """PUT the Lease with this resourceVersion."""

    record: LeaseRecord


@dataclass(frozen=True, slots=True)
class AskPeers:
    """Ask all other pods where they stand, bounded by the retry period."""

    epoch: int
    """The epoch that is about to begin: who answers takes nothing from older ones any more. 0: just asking."""


@dataclass(frozen=True, slots=True)
class Lack:
    """A peer that answered holds more of a database than this node."""

    pod: str
    name: str
    position: tuple[int, int]
    """Where the peer stands: (epoch, TXID)."""


@dataclass(frozen=True, slots=True)
class FetchMissing:
    """Get what this node lacks, as far as it continues what it has; then go on as ``AskPeers`` does."""

    lacks: tuple[Lack, ...]
    epoch: int


@dataclass(frozen=True, slots=True)
class AskPledges:
    """Ask these pods to promise that they do not take over for a while; each answer is an event."""

    epoch: int
    length_ns: int
    who: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SetMembers:
    """As primary: whose acknowledgements count from now on, and whether fewer will do."""

    members: frozenset[int]
    degraded: bool


@dataclass(frozen=True, slots=True)
class Note:
    """Remember durably that an epoch exists."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SetFence:
    """Writes are acknowledged until this moment, on both clocks; ``NEVER`` shuts at once."""

    deadline: Instant


@dataclass(frozen=True, slots=True)
class BecomePrimary:
    """Open for programs in this epoch (also when open already: only the epoch changes then)."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Demote:
    """Be the primary no longer, at once; follow nobody until told."""

    reason: str


@dataclass(frozen=True, slots=True)
class Follow:
    """Replicate from this primary."""

    pod: str
    address: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Let new writes wait, running ones finish, and the target acknowledge everything."""

    pod: str
    """Target; empty: nobody needs to acknowledge."""
    limit_s: float


@dataclass(frozen=True, slots=True)
class Resume:
    """Let programs write again after a drain that led to nothing."""


@dataclass(frozen=True, slots=True)
class TellTarget:
    """POST /handoff-ready to the new holder."""

    pod: str
    record: LeaseRecord
    drained_at: Instant
    """Since when programs wait."""
    started_at: Instant


@dataclass(frozen=True, slots=True)
class Report:
    """A problem that an operator should see; an empty message ends it."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Released:
    """After ``Terminate``: nothing is held any more, the node may end."""


Action = (
    ReadLease
    | PutLease
    | AskPeers
    | FetchMissing
    | AskPledges
    | Note
    | SetMembers
    | SetFence
    | BecomePrimary
    | Demote
    | Follow
    | Drain
    | Resume
    | TellTarget
    | Report
    | Released
)
