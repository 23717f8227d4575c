"""What the operator remembers of the objects that it watches.

Fed by watches and by the answers to our own writes; read by each reconcile. Keeps small
values instead of whole objects. An event that is older than what is known changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile import observed
from sqlitecluster_operator.reconcile.observed import (
    ClaimView,
    Fingerprint,
    LeaseView,
    NodeView,
    PodView,
    StatefulSetView,
    Surroundings,
)
from sqlitecluster_operator.runtime import kinds

Raw = Mapping[str, Any]


class Key(NamedTuple):
    """A SQLiteCluster."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(slots=True)
class Known:
    """What is known of one cluster."""

    cluster: Raw | None = None
    objects: dict[tuple[str, str], Fingerprint] = field(default_factory=dict)
    stateful_set: StatefulSetView | None = None
    pods: dict[str, PodView] = field(default_factory=dict)
    lease: LeaseView | None = None
    claims: dict[str, ClaimView] = field(default_factory=dict)
    versions: dict[tuple[str, str], int] = field(default_factory=dict)


class Store:
    """All clusters, and the nodes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[Key, Known] = {}
        self.nodes: dict[str, NodeView] = {}

    def keys(self) -> Iterator[Key]:
        """All SQLiteClusters."""
        return (key for key, known in self._known.items() if known.cluster is not None)

    def cluster(self, key: Key) -> Raw | None:
        """The SQLiteCluster, as last seen."""
        known = self._known.get(key)
        return known.cluster if known else None

    def surroundings(self, key: Key) -> Surroundings:
        """Everything else that is known of it."""
        known = self._known.get(key) or Known()
        return Surroundings(
            objects=dict(known.objects),
            stateful_set=known.stateful_set,
            pods=tuple(sorted(known.pods.values(), key=lambda pod: pod.ordinal)),
            lease=known.lease if self._is_ours(known, key) else None,
            claims=tuple(known.claims.values()),
            nodes=self.nodes,
        )

    @staticmethod
    def _is_ours(known: Known, key: Key) -> bool:
        """Whether the Lease belongs to the SQLiteCluster: another one says nothing about its primary."""
        found = known.objects.get((kinds.LEASE.name, key.name))
        return known.cluster is None or found is None or found.controller == known.cluster["metadata"]["uid"]

    def version(self, key: Key) -> int:
        """The resourceVersion of the SQLiteCluster, as last seen."""
        known = self._known.get(key)
        return known.versions.get((names.KIND, key.name), 0) if known else 0

    def sweep(self, kind: kinds.Kind, namespace: str, present: set[tuple[str, str]], version: int) -> list[Key]:
        """Forget objects of a kind that a list did not have: their deletion was not heard of.

        ``present``: (namespace, name) of all that it had; ``version``: the list's own. What is newer stays.
        """
        changed = []
        for key, known in list(self._known.items()):
            if namespace and key.namespace != namespace:
                continue
            for place, seen in list(known.versions.items()):
                if place[0] == kind.name and (key.namespace, place[1]) not in present and seen <= version:
                    meta = {"name": place[1], "namespace": key.namespace, "labels": {names.LABEL_CLUSTER: key.name}}
                    changed += self.observe(kind, {"metadata": {**meta, "resourceVersion": str(seen)}}, deleted=True)
        return changed

    def observe(self, kind: kinds.Kind, raw: Raw, *, deleted: bool = False) -> list[Key]:
        """Take an object as it is now; returns the clusters that have to be looked at."""
        if kind is kinds.NODE:
            return self._observe_node(raw, deleted=deleted)
        key = _key_of(kind, raw)
        if key is None:
            return []
        known = self._known.setdefault(key, Known())
        changed = self._remember(known, kind, raw, deleted=deleted)
        if known == Known(versions=known.versions):  # nothing of it is left
            del self._known[key]
        return [key] if changed else []

    def _remember(self, known: Known, kind: kinds.Kind, raw: Raw, *, deleted: bool) -> bool:
        meta = raw["metadata"]
        place = (kind.name, meta["name"])
        version = int(meta.get("resourceVersion") or 0)
        if version < known.versions.get(place, 0):
            return False
        if deleted:
            known.versions.pop(place, None)
            return self._forget(known, kind, meta)
        known.versions[place] = version
        before = known.objects.get(place)
        if kind in kinds.OWNED:
            fingerprint = observed.read_fingerprint({**raw, "kind": kind.name})
            if kind is kinds.LEASE:  # renewed every second: its version says nothing
                fingerprint = replace(fingerprint, version="")
            known.objects[place] = fingerprint
        return self._read(known, kind, raw) or before != known.objects.get(place)

    def _read(self, known: Known, kind: kinds.Kind, raw: Raw) -> bool:
        """Read the kinds of which more than a fingerprint is needed."""
        name = raw["metadata"]["name"]
        if kind is kinds.CLUSTER:
            known.cluster = raw
            return True
        if kind is kinds.POD:
            pod, old = observed.read_pod(raw), known.pods.get(name)
            if pod is not None:
                known.pods[name] = pod
            return pod != old
        if kind is kinds.STATEFUL_SET:
            old_set, known.stateful_set = known.stateful_set, observed.read_stateful_set(raw)
            return old_set != known.stateful_set
        if kind is kinds.CLAIM:
            old_claim, known.claims[name] = known.claims.get(name), observed.read_claim(raw)
            return old_claim != known.claims[name]
        if kind is kinds.LEASE:
            return self._read_lease(known, raw)
        return False

    def _read_lease(self, known: Known, raw: Raw) -> bool:
        old, new = known.lease, observed.read_lease(raw, self._clock())
        if old is not None and old.renewed == new.renewed and old.holder == new.holder:
            new = replace(new, seen_at=old.seen_at)
        known.lease = new
        return old is None or _lasting(old) != _lasting(new)

    @staticmethod
    def _forget(known: Known, kind: kinds.Kind, meta: Mapping[str, Any]) -> bool:
        known.objects.pop((kind.name, meta["name"]), None)
        if kind is kinds.CLUSTER:
            known.cluster = None
        elif kind is kinds.POD:
            known.pods.pop(meta["name"], None)
        elif kind is kinds.STATEFUL_SET:
            known.stateful_set = None
        elif kind is kinds.LEASE:
            known.lease = None
        elif kind is kinds.CLAIM:
            known.claims.pop(meta["name"], None)
        return True

    def _observe_node(self, raw: Raw, *, deleted: bool) -> list[Key]:
        name = raw["metadata"]["name"]
        old = self.nodes.get(name)
        if deleted:
            self.nodes.pop(name, None)
        else:
            self.nodes[name] = observed.read_node(raw)
        if old == self.nodes.get(name):
            return []
        return [key for key, known in self._known.items() if any(pod.node == name for pod in known.pods.values())]


def _key_of(kind: kinds.Kind, raw: Raw) -> Key | None:
    meta = raw["metadata"]
    if kind is kinds.CLUSTER:
        return Key(meta["namespace"], meta["name"])
    name = (meta.get("labels") or {}).get(names.LABEL_CLUSTER)
    return Key(meta["namespace"], name) if name else None


def _lasting(lease: LeaseView) -> LeaseView:
    """A Lease without what changes with each renewal."""
    return replace(lease, renewed="", seen_at=0.0, version="")
