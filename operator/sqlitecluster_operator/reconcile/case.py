"""What a plan is made of: the cluster, what was asked, what is there, and the time. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlitecluster.election import record
from sqlitecluster_operator.reconcile.actions import Action, Memory, Note
from sqlitecluster_operator.reconcile.observed import PodView, Surroundings

EVERYBODY: Final = record.EVERYBODY


@dataclass(frozen=True, slots=True)
class Intent:
    """What the spec asks for, as far as decisions need it."""

    instances: int
    build: Callable[[int], tuple[Mapping[str, Any], ...]] = field(default=lambda _replicas: (), compare=False)
    """The objects to apply for a number of pods."""
    template_hash: str = ""
    user_hash: str = ""
    run_on_primary: bool = False
    storage_size: str = ""
    update: str = "ReplicasFirstPrimaryLast"
    """Or ``OnDelete``: pods are replaced when somebody deletes them. ``Never`` is the same, by its name."""
    primary_update: str = "Handoff"
    """Or ``Restart``: without a hand-off. ``Supervised``: when the user hands off."""
    switchover_timeout_s: float = 60.0
    suspend: bool = False
    hibernate: bool = False
    fenced: frozenset[str] = frozenset()
    barred: frozenset[str] = frozenset()
    """Pods that the spec does not let become the primary."""
    cluster_id: str = ""
    lease_duration_s: int = 12
    selector: str = ""
    quorum: bool = False
    """Commits wait for replicas."""
    spread: str = ""
    """Label of nodes whose value is a pod's zone; empty: zones do not matter."""


@dataclass(frozen=True, slots=True)
class Disorder:
    """What is wrong with a cluster's certificate authority."""

    text: str
    foreign: bool = False
    """An object of somebody else has the name of its Secret or its ConfigMap."""


@dataclass(frozen=True, slots=True)
class Case:
    """One look at one cluster."""

    cluster: Mapping[str, Any]
    intent: Intent | None
    """None: the spec cannot be used."""
    problem: str
    """Why it cannot be used."""
    around: Surroundings
    memory: Memory
    now: dt.datetime
    clock: float
    """Monotonic seconds."""
    slot_free: bool = True
    """Whether this cluster may be brought to the operator's own new version now."""
    certificates: Disorder | None = None
    """Why the cluster's certificate authority is not in order; None: it is."""

    @property
    def name(self) -> str:
        return str(self.cluster["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.cluster["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.cluster["metadata"]["uid"])

    @property
    def annotations(self) -> Mapping[str, str]:
        return self.cluster["metadata"].get("annotations") or {}

    @property
    def status(self) -> Mapping[str, Any]:
        return self.cluster.get("status") or {}

    @property
    def epoch(self) -> int:
        """The newest that is known; 0: the cluster never had a primary."""
        return max(int(self.status.get("epoch") or 0), self.around.lease.epoch if self.around.lease else 0)

    @property
    def primary(self) -> PodView | None:
        """The pod that holds the Lease and renews it."""
        lease = self.around.lease
        if lease is None or lease.expired(self.clock):
            return None
        pod = self.around.pod(lease.pod)
        return pod if pod is not None and lease.holder == f"{pod.name}_{pod.uid}" else None

    def healthy(self, pod: PodView) -> bool:
        """Whether an instance does its part: it serves, or with ``runOn: Primary`` it stands by."""
        return not pod.deleting and (pod.ready or self.stands_by(pod))

    def stands_by(self, pod: PodView) -> bool:
        """Whether the only thing that is not ready is the program, which is held back on purpose."""
        intent = self.intent
        held_back = pod.sidecar_running and not pod.sidecar_started and pod.role == "replica" and not pod.problem
        return bool(intent and intent.run_on_primary and held_back and not pod.deleting)

    def stamp(self) -> str:
        """Now, as the API writes it."""
        return self.now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Sum:
    """A condition without its times."""

    status: bool
    reason: str
    message: str = ""


@dataclass(slots=True)
class Draft:
    """A plan that is being made."""

    case: Case
    actions: list[Action] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    since: dict[str, float] = field(default_factory=dict)
    look_again_s: float = 30.0
    rolls: bool = False

    def soon(self, seconds: float) -> None:
        """Look again not later than this."""
        self.look_again_s = min(self.look_again_s, seconds)

    def note(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Tell the user."""
        self.notes.append(Note(reason, message, warning))

    def lasted(self, what: str, seconds: float) -> bool:
        """Whether something that is the case now was so at each look since ``seconds``."""
        first = self.case.memory.since.get(what, self.case.clock)
        self.since[what] = first
        left = first + seconds - self.case.clock
        if left > 0:
            self.soon(left + 0.05)
        return left <= 0
