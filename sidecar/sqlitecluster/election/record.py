"""What the Lease says: ``LeaseRecord`` and the Kubernetes object it is read from.

Read by everybody, written by the holder (and by the operator, which creates the object).
``from_object`` keeps the whole object, so that ``to_object`` gives back what we do not
know: labels, owners, other annotations.

Rules:
    1. A malformed Lease is never fatal: a value that is no legal value counts as absent,
       and an absent one never helps anybody to take over sooner.
    2. The epoch, the holder and what it promises are written in the same object, so by one
       compare-and-swap.
    3. ``released`` tells a Lease that its holder gave up from one that somebody emptied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqlitecluster.election.notes import (
    PREFIX,
    TEXT_MAX,
    int_of,
    json_object,
    mapping,
    micro_time,
    names,
    parse_time,
    set_note,
    text_of,
)
from sqlitecluster.election.promise import LOSS, LOSS_HANDLED, DataLoss, Promise

EPOCH: Final = PREFIX + "epoch"
CLUSTER_ID: Final = PREFIX + "cluster-id"
ADVERTISE: Final = PREFIX + "advertise"
HANDOFF: Final = PREFIX + "handoff"
HANDLED: Final = PREFIX + "handoff-handled"
RESULT: Final = PREFIX + "handoff-result"
INELIGIBLE: Final = PREFIX + "ineligible"
RELEASED: Final = PREFIX + "released"
FENCED: Final = PREFIX + "fenced"
BARRED: Final = PREFIX + "barred"
MUST_AGREE: Final = PREFIX + "must-agree"
EVERYBODY: Final = "*"

EPOCH_MAX: Final = 1 << 60
_DURATION_MAX_S: Final = 3600

DRAINING, TRANSFERRING, COMPLETED, FAILED = "Draining", "Transferring", "Completed", "Failed"
FINAL: Final = (COMPLETED, FAILED)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a Lease: a pod that was made anew under the same name is somebody else."""

    pod: str
    uid: str

    def __str__(self) -> str:
        return f"{self.pod}_{self.uid}"

    @classmethod
    def parse(cls, text: str) -> Holder:
        """Read ``<pod>_<uid>``; a text without ``_`` is a name without uid."""
        pod, _, uid = text.partition("_")
        return cls(pod, uid)


@dataclass(frozen=True, slots=True)
class HandOff:
    """A request to move the primary's role, written by the operator."""

    id: str
    to: str
    """Name of a pod, or ``*``; with ``kind`` ``demote`` the pod that must give up the role."""
    kind: str = "handoff"
    requested_by: str = ""
    requested_at: str = ""

    def to_json(self) -> str:
        """The annotation's text."""
        value = {
            "id": self.id,
            "to": self.to,
            "kind": self.kind,
            "requestedBy": self.requested_by,
            "requestedAt": self.requested_at,
        }
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> HandOff | None:
        """Read the annotation; None when it is not one."""
        value = json_object(text)
        id_, to, kind = text_of(value, "id"), text_of(value, "to") or "*", text_of(value, "kind") or "handoff"
        if not id_ or kind not in ("handoff", "demote"):
            return None
        return cls(id_, to, kind, text_of(value, "requestedBy"), text_of(value, "requestedAt"))


@dataclass(frozen=True, slots=True)
class HandOffResult:
    """How far a hand-off is, or how it ended; written by primaries."""

    id: str
    source: str
    target: str
    phase: str
    started_at: str = ""
    completed_at: str = ""
    duration_ms: int | None = None
    write_gap_ms: int | None = None
    """From the first write that was made to wait to the first that the new primary could take."""
    message: str = ""

    def to_json(self) -> str:
        """The annotation's text."""
        value: dict[str, Any] = {
            "id": self.id,
            "from": self.source,
            "to": self.target,
            "phase": self.phase,
            "startedAt": self.started_at,
        }
        if self.phase in FINAL:
            value["completedAt"] = self.completed_at
        if self.duration_ms is not None:
            value["durationMillis"] = self.duration_ms
        if self.write_gap_ms is not None:
            value["writeGapMillis"] = self.write_gap_ms
        if self.message:
            value["message"] = self.message
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> HandOffResult | None:
        """Read the annotation; None when it is not one."""
        value = json_object(text)
        if not text_of(value, "id"):
            return None
        return cls(
            text_of(value, "id"),
            text_of(value, "from"),
            text_of(value, "to"),
            text_of(value, "phase"),
            text_of(value, "startedAt"),
            text_of(value, "completedAt"),
            int_of(value, "durationMillis"),
            int_of(value, "writeGapMillis"),
            text_of(value, "message"),
        )


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """One state of the Lease."""

    holder: str = ""
    """``<pod>_<uid>``; empty: nobody."""
    epoch: int = 0
    """Strictly increasing; 0 before the first primary."""
    duration_s: int = 12
    renew_real_ns: int | None = None
    """The holder's wall clock when it sent this record; None before the first."""
    acquire_real_ns: int | None = None
    transitions: int = 0
    cluster_id: str = ""
    advertise: str = ""
    """``host:port`` of the holder's peers address."""
    handoff: HandOff | None = None
    handled: str = ""
    """Id of the newest request that a primary has begun with: the same id twice is once."""
    result: HandOffResult | None = None
    ineligible: Mapping[str, int] = field(default_factory=dict)
    """Pods that must not take over before a moment (wall clock, ns)."""
    fenced: frozenset[str] = frozenset()
    """Pods that must not write, lead nor serve (``*``: all); the operator writes it, from ``spec.fence``."""
    barred: frozenset[str] = frozenset()
    """Pods that may not become the primary (``*``: all); the operator writes it, from ``spec.primary.candidates``."""
    must_agree: frozenset[str] | None = None
    """Pods (``<pod>_<uid>``) whose agreement lets the holder go on without renewals; None: it does not."""
    released: bool = False
    """The last holder gave the Lease up: it may be taken at once."""
    promise: Promise = field(default_factory=Promise)
    """What acknowledged transactions rely on; the primary writes it."""
    loss: DataLoss | None = None
    """A person accepts that acknowledged transactions may be lost; the operator writes it."""
    loss_handled: str = ""
    """Id of the newest of these that was used."""
    resource_version: str = ""
    uid: str = ""
    """The object's own uid: a Lease that was deleted and made again is another one."""
    origin: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """The object as it was read."""

    def life(self) -> tuple[object, ...]:
        """What each renewal of the holder changes, and nobody else: the sign of life that others watch."""
        return (
            self.uid,
            self.holder,
            self.epoch,
            self.duration_s,
            self.renew_real_ns,
            self.acquire_real_ns,
            self.transitions,
        )

    @property
    def pod(self) -> str:
        """Name of the holder's pod; empty when there is none."""
        return Holder.parse(self.holder).pod

    def is_fenced(self, pod: str) -> bool:
        """Whether a pod must not write, lead nor serve."""
        return bool(self.fenced & {pod, EVERYBODY})

    def is_kept_out(self, pod: str) -> bool:
        """Whether a pod may not become the primary, not even when it is asked for by name."""
        return bool((self.fenced | self.barred) & {pod, EVERYBODY})

    def may_lead(self, pod: str, real_ns: int) -> bool:
        """Whether a pod may become the primary by itself at a moment, as far as people decided."""
        return not self.is_kept_out(pod) and self.ineligible.get(pod, 0) <= real_ns

    @property
    def pending(self) -> HandOff | None:
        """The request that no primary has begun with."""
        return self.handoff if self.handoff is not None and self.handoff.id != self.handled else None

    def loss_accepted(self, pod: str) -> bool:
        """Whether a person lets a pod take over without what was acknowledged."""
        return self.loss is not None and self.loss.id != self.loss_handled and self.loss.allows(pod)

    def to_object(self) -> dict[str, Any]:
        """The Kubernetes object to PUT."""
        value = dict(self.origin) or {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        metadata = value["metadata"] = dict(mapping(value, "metadata"))
        if self.resource_version:
            metadata["resourceVersion"] = self.resource_version
        notes = metadata["annotations"] = dict(mapping(metadata, "annotations"))
        notes[EPOCH] = str(self.epoch)
        set_note(notes, CLUSTER_ID, self.cluster_id)
        set_note(notes, ADVERTISE, self.advertise)
        set_note(notes, HANDLED, self.handled)
        set_note(notes, RESULT, self.result.to_json() if self.result else "")
        set_note(notes, INELIGIBLE, _pods_to_json(self.ineligible))
        set_note(notes, MUST_AGREE, must_agree_to_json(self.must_agree))
        set_note(notes, LOSS, self.loss.to_json() if self.loss is not None else "")
        set_note(notes, LOSS_HANDLED, self.loss_handled)
        self.promise.write(notes)
        set_note(notes, RELEASED, str(self.epoch) if self.released else "")
        spec = value["spec"] = dict(mapping(value, "spec"))
        spec["holderIdentity"] = self.holder
        spec["leaseDurationSeconds"] = self.duration_s
        spec["leaseTransitions"] = self.transitions
        for key, moment in (("renewTime", self.renew_real_ns), ("acquireTime", self.acquire_real_ns)):
            if moment is None:
                spec.pop(key, None)
            else:
                spec[key] = micro_time(moment)
        return value

    @classmethod
    def from_object(cls, value: Mapping[str, Any]) -> LeaseRecord:
        """Read a Kubernetes Lease."""
        metadata, spec = mapping(value, "metadata"), mapping(value, "spec")
        notes = mapping(metadata, "annotations")
        epoch = _epoch(notes.get(EPOCH))
        duration = int_of(spec, "leaseDurationSeconds")
        return cls(
            holder=text_of(spec, "holderIdentity"),
            epoch=epoch,
            duration_s=duration if duration and 0 < duration <= _DURATION_MAX_S else 12,
            renew_real_ns=parse_time(text_of(spec, "renewTime")),
            acquire_real_ns=parse_time(text_of(spec, "acquireTime")),
            transitions=int_of(spec, "leaseTransitions") or 0,
            cluster_id=text_of(notes, CLUSTER_ID),
            advertise=text_of(notes, ADVERTISE),
            handoff=HandOff.from_json(text_of(notes, HANDOFF)),
            handled=text_of(notes, HANDLED),
            result=HandOffResult.from_json(text_of(notes, RESULT)),
            ineligible=_pods_from_json(text_of(notes, INELIGIBLE)),
            fenced=names(text_of(notes, FENCED)),
            barred=names(text_of(notes, BARRED)),
            must_agree=names(text_of(notes, MUST_AGREE)) if MUST_AGREE in notes else None,
            released=epoch > 0 and text_of(notes, RELEASED) == str(epoch),
            promise=Promise.read(notes),
            loss=DataLoss.from_json(text_of(notes, LOSS)),
            loss_handled=text_of(notes, LOSS_HANDLED),
            resource_version=text_of(metadata, "resourceVersion"),
            uid=text_of(metadata, "uid"),
            origin=value,
        )

    def renewed(self, real_ns: int) -> LeaseRecord:
        """The same, sent at a moment; never with the moment of the record before, whatever the clock did."""
        moment = real_ns // 1000 * 1000
        if moment == self.renew_real_ns:
            moment += 1000
        return replace(self, renew_real_ns=moment)


def _epoch(value: object) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 19:
        return 0
    return min(int(value), EPOCH_MAX)


def _pods_to_json(pods: Mapping[str, int]) -> str:
    return json.dumps({pod: micro_time(at) for pod, at in sorted(pods.items())}, separators=(",", ":")) if pods else ""


def _pods_from_json(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for pod, moment in json_object(text).items():
        at = parse_time(moment) if isinstance(moment, str) else None
        if at is not None:
            found[pod] = at
    return found


def must_agree_to_json(who: frozenset[str] | None) -> str:
    """Nothing when it would be too long to be read again: then nobody goes on without renewals."""
    text = json.dumps(sorted(who), separators=(",", ":")) if who is not None else ""
    return text if len(text) <= TEXT_MAX else ""
