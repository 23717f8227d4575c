"""What the Lease says: ``LeaseRecord`` and the Kubernetes object it is read from.

Read by everybody, written by the holder (and by the operator, which creates the object).
``from_object`` keeps the whole object, so that ``to_object`` gives back what we do not
know: labels, owners, other annotations.

Rules:
    1. A malformed Lease is never fatal: a value that is no legal value counts as absent,
       and an absent one never helps anybody to take over sooner.
    2. The epoch and the holder are written in the same object, so by one compare-and-swap.
    3. ``released`` tells a Lease that its holder gave up from one that somebody emptied.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

PREFIX: Final = "sqlitecluster.dev/"
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
EVERYBODY: Final = "*"

EPOCH_MAX: Final = 1 << 60
_TEXT_MAX: Final = 4096
_DURATION_MAX_S: Final = 3600
_EPOCH_0: Final = datetime(1970, 1, 1, tzinfo=UTC)

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
        value = _object(text)
        id_, to, kind = _str(value, "id"), _str(value, "to") or "*", _str(value, "kind") or "handoff"
        if not id_ or kind not in ("handoff", "demote"):
            return None
        return cls(id_, to, kind, _str(value, "requestedBy"), _str(value, "requestedAt"))


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
        value = _object(text)
        if not _str(value, "id"):
            return None
        return cls(
            _str(value, "id"),
            _str(value, "from"),
            _str(value, "to"),
            _str(value, "phase"),
            _str(value, "startedAt"),
            _str(value, "completedAt"),
            _int(value, "durationMillis"),
            _int(value, "writeGapMillis"),
            _str(value, "message"),
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
    released: bool = False
    """The last holder gave the Lease up: it may be taken at once."""
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

    def to_object(self) -> dict[str, Any]:
        """The Kubernetes object to PUT."""
        value = dict(self.origin) or {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        metadata = value["metadata"] = dict(_mapping(value, "metadata"))
        if self.resource_version:
            metadata["resourceVersion"] = self.resource_version
        notes = metadata["annotations"] = dict(_mapping(metadata, "annotations"))
        notes[EPOCH] = str(self.epoch)
        _note(notes, CLUSTER_ID, self.cluster_id)
        _note(notes, ADVERTISE, self.advertise)
        _note(notes, HANDLED, self.handled)
        _note(notes, RESULT, self.result.to_json() if self.result else "")
        _note(notes, INELIGIBLE, _pods_to_json(self.ineligible))
        _note(notes, RELEASED, str(self.epoch) if self.released else "")
        spec = value["spec"] = dict(_mapping(value, "spec"))
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
        metadata, spec = _mapping(value, "metadata"), _mapping(value, "spec")
        notes = _mapping(metadata, "annotations")
        epoch = _epoch(notes.get(EPOCH))
        duration = _int(spec, "leaseDurationSeconds")
        return cls(
            holder=_str(spec, "holderIdentity"),
            epoch=epoch,
            duration_s=duration if duration and 0 < duration <= _DURATION_MAX_S else 12,
            renew_real_ns=parse_time(_str(spec, "renewTime")),
            acquire_real_ns=parse_time(_str(spec, "acquireTime")),
            transitions=_int(spec, "leaseTransitions") or 0,
            cluster_id=_str(notes, CLUSTER_ID),
            advertise=_str(notes, ADVERTISE),
            handoff=HandOff.from_json(_str(notes, HANDOFF)),
            handled=_str(notes, HANDLED),
            result=HandOffResult.from_json(_str(notes, RESULT)),
            ineligible=_pods_from_json(_str(notes, INELIGIBLE)),
            fenced=_names(_str(notes, FENCED)),
            barred=_names(_str(notes, BARRED)),
            released=epoch > 0 and _str(notes, RELEASED) == str(epoch),
            resource_version=_str(metadata, "resourceVersion"),
            uid=_str(metadata, "uid"),
            origin=value,
        )

    def renewed(self, real_ns: int) -> LeaseRecord:
        """The same, sent at a moment; never with the moment of the record before, whatever the clock did."""
        moment = real_ns // 1000 * 1000
        if moment == self.renew_real_ns:
            moment += 1000
        return replace(self, renew_real_ns=moment)


def micro_time(real_ns: int) -> str:
    """RFC 3339 in UTC with microseconds, as Kubernetes writes MicroTime."""
    text = (_EPOCH_0 + timedelta(microseconds=real_ns // 1000)).isoformat(timespec="microseconds")
    return text.replace("+00:00", "Z")


def parse_time(text: str) -> int | None:
    """An RFC 3339 moment in ns; None when it is not one."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        return None
    return (moment - _EPOCH_0) // timedelta(microseconds=1) * 1000


def _epoch(value: object) -> int:
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 19:
        return 0
    return min(int(value), EPOCH_MAX)


def _note(notes: dict[str, str], key: str, text: str) -> None:
    if text:
        notes[key] = text
    else:
        notes.pop(key, None)


def _pods_to_json(pods: Mapping[str, int]) -> str:
    return json.dumps({pod: micro_time(at) for pod, at in sorted(pods.items())}, separators=(",", ":")) if pods else ""


def _pods_from_json(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for pod, moment in _object(text).items():
        at = parse_time(moment) if isinstance(moment, str) else None
        if at is not None:
            found[pod] = at
    return found


def _names(text: str) -> frozenset[str]:
    """A JSON list of names; what is no list names nobody."""
    try:
        value = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return frozenset()
    return frozenset(name for name in value if isinstance(name, str)) if isinstance(value, list) else frozenset()


def _object(text: str) -> dict[str, Any]:
    if not text or len(text) > _TEXT_MAX:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def _str(value: Mapping[str, Any], key: str) -> str:
    found = value.get(key)
    return found if isinstance(found, str) and len(found) <= _TEXT_MAX else ""


def _int(value: Mapping[str, Any], key: str) -> int | None:
    found = value.get(key)
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        return None
    return int(found)
