"""Performs the actions of a plan, one after the other, and remembers what came of them.

What the API server refuses for good reasons becomes part of the memory, and so of the next
status; what may work next time ends the round and is raised after the rest was saved.

Pods run with the rights of a ServiceAccount and obey a Lease. When one of these names is somebody
else's, nobody is given rights and no pods are made: what runs already goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile import observed
from sqlitecluster_operator.reconcile.actions import (
    ABSENT,
    Action,
    AnnotateLease,
    Apply,
    CreateLease,
    DeletePod,
    LabelPod,
    MarkClaim,
    Memory,
    Remove,
    RemoveUnwatched,
    ResizeClaim,
    Scale,
    SetFinalizers,
    TellZone,
)
from sqlitecluster_operator.runtime import kinds
from sqlitecluster_operator.runtime.api import (
    API,
    APIError,
    Conflict,
    Forbidden,
    NotFound,
    Object,
    Refused,
    Unavailable,
)
from sqlitecluster_operator.runtime.store import Key, Store

log = logging.getLogger(__name__)

REFUSAL_MAX: Final = 600
NEEDED: Final = (kinds.SERVICE_ACCOUNT, kinds.ROLE, kinds.ROLE_BINDING, kinds.LEASE)
"""What must be ours before pods have rights and are made."""


class ForeignObject(Exception):
    """An object of somebody else has a name that we need."""

    def __init__(self, kind: kinds.Kind, name: str) -> None:
        super().__init__(f"{kind.name} {name} exists and is not this SQLiteCluster's")
        self.kind = kind
        self.key = f"{kind.name} {name}"


@dataclass(slots=True)
class Outcome:
    """What came of a plan's actions."""

    applied: dict[tuple[str, str], str]
    refusals: dict[str, str]
    foreign: dict[str, str] = field(default_factory=dict)
    done: int = 0
    error: APIError | None = None

    def memory(self, before: Memory) -> Memory:
        """The memory for the next look."""
        return Memory(self.applied, self.refusals, self.foreign, before.since)


class Executor:
    """For one cluster and one plan."""

    def __init__(self, api: API, store: Store, key: Key, uid: str) -> None:
        self._api = api
        self._store = store
        self._key = key
        self._uid = uid
        self._outcome = Outcome({}, {})
        self._handlers: dict[type, Callable[[Any], Awaitable[None]]] = {
            Apply: self._apply,
            Remove: self._remove,
            RemoveUnwatched: self._remove_unwatched,
            CreateLease: self._create_lease,
            AnnotateLease: self._annotate_lease,
            Scale: self._scale,
            DeletePod: self._delete_pod,
            LabelPod: self._label_pod,
            TellZone: self._tell_zone,
            ResizeClaim: self._resize_claim,
            MarkClaim: self._mark_claim,
            SetFinalizers: self._set_finalizers,
        }

    async def run(self, actions: tuple[Action, ...], memory: Memory) -> Outcome:
        """Perform the actions; the first one that has to be repeated ends the round."""
        self._outcome = Outcome(dict(memory.applied), {})
        for action in actions:
            if self._has_to_wait(action):
                continue
            try:
                await self._handlers[type(action)](action)
            except ForeignObject as error:
                self._outcome.foreign[error.key] = str(error)
            except NotFound as error:
                if isinstance(action, Apply):
                    self._outcome.refusals[action.key] = str(error)[:REFUSAL_MAX]
            except (Forbidden, Refused) as error:
                self._outcome.refusals[action.key] = str(error)[:REFUSAL_MAX]
                log.warning("%s: %s: %s", self._key, action.key, error)
            except APIError as error:
                self._outcome.error = error
                break
            else:
                self._outcome.done += 1
        return self._outcome

    def _has_to_wait(self, action: Action) -> bool:
        """Whether an action would use what is somebody else's; what is foreign is found anew at each look."""
        if not isinstance(action, Apply) or not self._foreign_needed():
            return False
        kind = action.body["kind"]
        if kind == kinds.STATEFUL_SET.name:
            return self._store.surroundings(self._key).stateful_set is None
        return bool(kind == kinds.ROLE_BINDING.name)

    def _foreign_needed(self) -> bool:
        return any(key.partition(" ")[0] in {kind.name for kind in NEEDED} for key in self._outcome.foreign)

    async def _apply(self, action: Apply) -> None:
        body = dict(action.body)
        kind, name = kinds.BY_NAME[body["kind"]], body["metadata"]["name"]
        if kind in kinds.UNWATCHED:
            await self._check_owner(kind, name)
            self._outcome.applied.pop((kind.name, name), None)  # without an answer it may be there
            await self._api.apply(kind, body)
            self._outcome.applied[kind.name, name] = body["metadata"]["annotations"][names.ANNOTATION_APPLIED]
            return
        known = self._store.surroundings(self._key).objects.get((kind.name, name))
        if known is None or known.controller != self._uid:
            await self._adopt_or_refuse(kind, name)
        made = await self._api.apply(kind, body)
        self._see(kind, made)
        self._outcome.applied[kind.name, name] = observed.read_fingerprint({**made, "kind": kind.name}).version

    async def _adopt_or_refuse(self, kind: kinds.Kind, name: str) -> None:
        """An object that we do not know: nothing, ours after all (then the plan was made on old news), or foreign."""
        found = await self._check_owner(kind, name)
        if found is not None:
            ours_and_seen = self._see(kind, found)
            if ours_and_seen and kind is kinds.STATEFUL_SET:
                raise Conflict(f"{kind.name} {name} was not known yet")

    async def _check_owner(self, kind: kinds.Kind, name: str) -> Object | None:
        try:
            found = await self._api.get(kind, self._key.namespace, name)
        except NotFound:
            return None
        if names.controller_uid(found["metadata"]) != self._uid:
            raise ForeignObject(kind, name)
        return found

    async def _remove(self, action: Remove) -> None:
        await self._api.delete(kinds.BY_NAME[action.kind], self._key.namespace, action.name, action.uid)
        self._outcome.applied.pop((action.kind, action.name), None)

    async def _remove_unwatched(self, action: RemoveUnwatched) -> None:
        """Clusters that never wanted one are asked about, too: their look does not fail because of it."""
        kind = kinds.BY_NAME[action.kind]
        try:
            found = await self._check_owner(kind, action.name)
        except (ForeignObject, Forbidden):  # who may not read it never made it
            found = None
        except Unavailable as error:
            log.warning("%s: %s is looked for later: %s", self._key, action.key, error)
            return
        if found is not None:
            await self._api.delete(kind, self._key.namespace, action.name, found["metadata"]["uid"])
        self._outcome.applied[action.kind, action.name] = ABSENT

    async def _create_lease(self, action: CreateLease) -> None:
        try:
            self._see(kinds.LEASE, await self._api.create(kinds.LEASE, self._key.namespace, dict(action.body)))
        except Conflict:
            found = await self._check_owner(kinds.LEASE, self._key.name)
            if found is None:
                raise
            self._see(kinds.LEASE, found)

    async def _annotate_lease(self, action: AnnotateLease) -> None:
        known = self._store.surroundings(self._key).objects.get((kinds.LEASE.name, self._key.name))
        uid = known.uid if known is not None and known.controller == self._uid else ""
        if not uid:
            found = await self._check_owner(kinds.LEASE, self._key.name)
            if found is None:
                return
            uid = found["metadata"]["uid"]
        body = {"metadata": {"uid": uid, "annotations": dict(action.annotations)}}  # and no later Lease of this name
        self._see(kinds.LEASE, await self._api.patch(kinds.LEASE, self._key.namespace, self._key.name, body))

    async def _scale(self, action: Scale) -> None:
        body = {"spec": {"replicas": action.replicas}}
        made = await self._api.patch(kinds.STATEFUL_SET, self._key.namespace, self._key.name, body)
        self._see(kinds.STATEFUL_SET, made)

    async def _delete_pod(self, action: DeletePod) -> None:
        left = await self._api.delete(kinds.POD, self._key.namespace, action.name, action.uid)
        if left.get("kind") == kinds.POD.name:
            self._see(kinds.POD, left)

    async def _label_pod(self, action: LabelPod) -> None:
        ordinal = names.ordinal(self._key.name, action.name)
        labels = {names.LABEL_INSTANCE: str(ordinal)} | ({names.LABEL_ROLE: action.role} if action.role else {})
        body = {"metadata": {"uid": action.uid, "labels": labels}}
        self._see(kinds.POD, await self._api.patch(kinds.POD, self._key.namespace, action.name, body))

    async def _tell_zone(self, action: TellZone) -> None:
        body = {"metadata": {"uid": action.uid, "annotations": {names.ANNOTATION_ZONE: action.zone}}}
        self._see(kinds.POD, await self._api.patch(kinds.POD, self._key.namespace, action.name, body))

    async def _resize_claim(self, action: ResizeClaim) -> None:
        body = {"spec": {"resources": {"requests": {"storage": action.size}}}}
        self._see(kinds.CLAIM, await self._api.patch(kinds.CLAIM, self._key.namespace, action.name, body))

    async def _mark_claim(self, action: MarkClaim) -> None:
        body = {"metadata": {"annotations": {names.ANNOTATION_CLUSTER_ID: action.cluster_id}}}
        self._see(kinds.CLAIM, await self._api.patch(kinds.CLAIM, self._key.namespace, action.name, body))

    async def _set_finalizers(self, action: SetFinalizers) -> None:
        body = {"metadata": {"finalizers": list(action.finalizers), "resourceVersion": action.version}}
        made = await self._api.patch(kinds.CLUSTER, self._key.namespace, self._key.name, body)
        if made.get("metadata", {}).get("deletionTimestamp") is None:
            self._see(kinds.CLUSTER, made)

    def _see(self, kind: kinds.Kind, raw: Object) -> bool:
        """Remember an answer, so that the next look does not decide on older news."""
        return bool(self._store.observe(kind, raw))
