"""What a plan can ask for. Values; ``runtime.executor`` performs them in the order of the plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

ABSENT: Final = ""
"""Instead of a version: we looked, and none of ours is there."""


@dataclass(frozen=True, slots=True)
class Apply:
    """Make our fields of an object what ``body`` says; it is made if missing and never taken from others."""

    body: Mapping[str, Any]

    @property
    def key(self) -> str:
        return f"{self.body['kind']} {self.body['metadata']['name']}"


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete one of our objects that is not wanted any more."""

    kind: str
    name: str
    uid: str

    @property
    def key(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class RemoveUnwatched:
    """Delete an object of a kind that nobody watches, if there is one and it is ours."""

    kind: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class CreateLease:
    """Make the Lease; sidecars only update it."""

    body: Mapping[str, Any]

    @property
    def key(self) -> str:
        return f"Lease {self.body['metadata']['name']}"


@dataclass(frozen=True, slots=True)
class AnnotateLease:
    """Set annotations of the Lease; None removes one."""

    annotations: Mapping[str, str | None]
    key: str = "annotations of the Lease"


@dataclass(frozen=True, slots=True)
class Scale:
    """Set the replicas of the StatefulSet, and nothing else of it."""

    replicas: int
    key: str = "replicas of the StatefulSet"


@dataclass(frozen=True, slots=True)
class DeletePod:
    """Let the StatefulSet make this pod anew."""

    name: str
    uid: str

    @property
    def key(self) -> str:
        return f"Pod {self.name}"


@dataclass(frozen=True, slots=True)
class LabelPod:
    """Set the role of a pod; sidecars do that themselves, this is the fallback."""

    name: str
    uid: str
    role: str

    @property
    def key(self) -> str:
        return f"label of Pod {self.name}"


@dataclass(frozen=True, slots=True)
class TellZone:
    """Write on a pod in which zone its node is."""

    name: str
    uid: str
    zone: str

    @property
    def key(self) -> str:
        return f"zone of Pod {self.name}"


@dataclass(frozen=True, slots=True)
class ResizeClaim:
    """Ask for a larger volume."""

    name: str
    size: str

    @property
    def key(self) -> str:
        return f"PersistentVolumeClaim {self.name}"


@dataclass(frozen=True, slots=True)
class MarkClaim:
    """Write on a volume claim whose data it holds: it may outlive the SQLiteCluster."""

    name: str
    cluster_id: str

    @property
    def key(self) -> str:
        return f"mark of {self.name}"


@dataclass(frozen=True, slots=True)
class SetFinalizers:
    """The finalizers of the SQLiteCluster, whole: conditional on what was seen."""

    finalizers: tuple[str, ...]
    version: str
    key: str = "finalizers"


Action = (
    Apply
    | Remove
    | RemoveUnwatched
    | CreateLease
    | AnnotateLease
    | Scale
    | DeletePod
    | LabelPod
    | TellZone
    | ResizeClaim
    | MarkClaim
    | SetFinalizers
)


@dataclass(frozen=True, slots=True)
class Note:
    """A Kubernetes Event on the SQLiteCluster."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """What a cluster's next look has to know of earlier ones; lost at a restart, which is harmless."""

    applied: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The version that each object had after we applied it: another one means that somebody changed it.

    Of kinds that nobody watches what we applied, or ``ABSENT``.
    """
    refusals: Mapping[str, str] = field(default_factory=dict)
    """The API server's words about actions that it did not accept, by the action's key."""
    foreign: Mapping[str, str] = field(default_factory=dict)
    """Objects of others that have a name that we need."""
    since: Mapping[str, float] = field(default_factory=dict)
    """When something that must last a while to count was first seen."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome of one look at a cluster."""

    actions: tuple[Action, ...]
    status: Mapping[str, Any] | None
    """The whole status; None: leave it alone."""
    notes: tuple[Note, ...]
    memory: Memory
    look_again_s: float
    rolls: bool = False
    """Pods are being replaced because the operator is a new one: this takes one of its slots."""
