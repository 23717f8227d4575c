"""One look at one cluster: observe, plan, perform, report. Idempotent; called by the queue.

Decisions are in ``reconcile``; here is only what touches the API, and the small memories
between two looks.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from sqlitecluster_operator import objects
from sqlitecluster_operator.reconcile import intent as intents
from sqlitecluster_operator.reconcile.actions import Memory, Plan
from sqlitecluster_operator.reconcile.case import Case, Disorder
from sqlitecluster_operator.reconcile.intent import Parsed
from sqlitecluster_operator.reconcile.observed import Probe, Surroundings, moment_of
from sqlitecluster_operator.reconcile.plan import plan
from sqlitecluster_operator.reconcile.status import patch
from sqlitecluster_operator.runtime import kinds
from sqlitecluster_operator.runtime.api import API, APIError, NotFound
from sqlitecluster_operator.runtime.events import Events
from sqlitecluster_operator.runtime.executor import Executor, Outcome
from sqlitecluster_operator.runtime.store import Key, Store

log = logging.getLogger(__name__)

REFUSAL_AGE_S: Final = 600.0
"""An older Event about a refused pod is history."""
CERTIFICATES_AGAIN_S: Final = 10.0
"""A certificate authority that is not in order is tried again not later than this."""


class Identity(Protocol):
    """Keeps the certificate authority of a cluster."""

    async def ensure(self, key: Key, cluster: Mapping[str, Any]) -> Disorder | None:
        """Bring it up to date if that is due; returns what is wrong with it."""
        ...


class Probes(Protocol):
    """Asks sidecars about themselves."""

    async def ask(self, key: Key, around: Surroundings, *, often: bool = False) -> Mapping[str, Probe]:
        """What is known, at most a few seconds old; ``often``: about a second."""
        ...


class Slots:
    """How many clusters are brought to the operator's own new version at once. Pure."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken: set[Key] = set()

    def free_for(self, key: Key) -> bool:
        """Whether this cluster may go on or begin."""
        return key in self._taken or len(self._taken) < self._limit

    def settle(self, key: Key, *, rolls: bool, over: bool) -> None:
        """Take a place while pods are replaced, give it back when that is over."""
        if rolls:
            self._taken.add(key)
        elif over:
            self._taken.discard(key)

    def drop(self, key: Key) -> None:
        """The cluster is gone."""
        self._taken.discard(key)


@dataclass(slots=True)
class _Kept:
    """What is kept of a cluster between two looks."""

    memory: Memory = field(default_factory=Memory)
    parsed: Parsed | None = None
    parsed_of: tuple[object, ...] = ()
    missing_since: float | None = None


class Controller:
    """Looks after all clusters."""

    def __init__(
        self, api: API, store: Store, settings: objects.Settings, slots: Slots, identity: Identity, probes: Probes
    ) -> None:
        self._api = api
        self._store = store
        self._settings = settings
        self._slots = slots
        self._identity = identity
        self._probes = probes
        self._events = Events(api)
        self._kept: dict[Key, _Kept] = {}
        self.counts: Counter[str] = Counter()
        """Looks by outcome, for metrics."""
        self.seconds = 0.0

    async def look(self, key: Key) -> float | None:
        """Bring one cluster nearer to its spec; returns when to look again."""
        began = time.monotonic()
        cluster = self._store.cluster(key)
        if cluster is None:
            self._kept.pop(key, None)
            self._slots.drop(key)
            return None
        kept = self._kept.setdefault(key, _Kept())
        case = await self._case(key, cluster, kept)
        made = plan(case)
        self._slots.settle(key, rolls=made.rolls, over=needs_no_slot(case))
        uid = str(cluster["metadata"]["uid"])
        outcome = await Executor(self._api, self._store, key, uid).run(made.actions, made.memory)
        kept.memory = outcome.memory(made.memory)
        await self._report(key, case, made)
        self.seconds += time.monotonic() - began
        self.counts["failed" if outcome.error else "done"] += 1
        if outcome.error is not None:
            outcome.error.progressed = outcome.done > 0
            raise outcome.error
        return _next_look(case, made, outcome)

    async def _case(self, key: Key, cluster: Mapping[str, Any], kept: _Kept) -> Case:
        certificates = None
        if not cluster["metadata"].get("deletionTimestamp"):
            certificates = await self._identity.ensure(key, cluster)
        around = self._store.surroundings(key)
        refusal = await self._refusal(key, around, kept)
        often = bool((cluster.get("spec") or {}).get("hibernate"))
        around = replace(around, pod_refusal=refusal, probes=await self._probes.ask(key, around, often=often))
        # Everything that was awaited is over: what is decided now is decided on the newest values.
        cluster = self._store.cluster(key) or cluster
        around = replace(self._store.surroundings(key), pod_refusal=around.pod_refusal, probes=around.probes)
        parsed = self._parse(cluster, kept)
        return Case(
            cluster=cluster,
            intent=intents.intent(cluster, parsed, around, self._settings),
            problem=parsed.problem,
            around=around,
            memory=kept.memory,
            now=dt.datetime.now(dt.UTC),
            clock=time.monotonic(),
            slot_free=self._slots.free_for(key),
            certificates=certificates,
        )

    def _parse(self, cluster: Mapping[str, Any], kept: _Kept) -> Parsed:
        meta = cluster["metadata"]
        version = (meta["uid"], meta.get("generation"), repr(meta.get("annotations")))
        if kept.parsed is None or kept.parsed_of != version:
            kept.parsed, kept.parsed_of = intents.read(cluster, self._settings), version
        return kept.parsed

    async def _refusal(self, key: Key, around: Surroundings, kept: _Kept) -> str:
        """The API server's words, when the StatefulSet cannot make its pods for more than a moment."""
        existing = around.stateful_set
        if existing is None or len(around.pods) >= existing.replicas:
            kept.missing_since = None
            return ""
        if kept.missing_since is None:
            kept.missing_since = time.monotonic()
        if time.monotonic() - kept.missing_since < 1.0:
            return ""
        fields = f"involvedObject.kind=StatefulSet,involvedObject.name={key.name},reason=FailedCreate"
        try:
            found, _ = await self._api.list(kinds.EVENT, key.namespace, fieldSelector=fields)
        except APIError as error:
            log.warning("%s: Events could not be read: %s", key, error)
            return ""
        return newest_refusal(found, existing.uid, dt.datetime.now(dt.UTC))

    async def _report(self, key: Key, case: Case, made: Plan) -> None:
        if made.status is not None:
            changes = patch(case.status, made.status)
            try:
                answer = await self._api.patch(kinds.CLUSTER, key.namespace, key.name, {"status": changes}, "status")
                self._store.observe(kinds.CLUSTER, answer)
            except NotFound:
                return
        await self._events.send(case.cluster, made.notes)


def needs_no_slot(case: Case) -> bool:
    """Whether a cluster that replaces no pod now is done with it: all do their part again, or none is to be replaced.

    That no pod is out of date is not enough: the last one that was replaced may not work with the new version.
    """
    intent = case.intent
    resting = intent is not None and (intent.hibernate or intent.suspend)
    ending = bool(case.cluster["metadata"].get("deletionTimestamp"))
    return resting or ending or (bool(case.around.pods) and all(case.healthy(pod) for pod in case.around.pods))


def newest_refusal(events: list[dict[str, Any]], uid: str, now: dt.datetime) -> str:
    """The message of the newest Event about a pod that this StatefulSet could not make."""
    newest: tuple[dt.datetime, str] | None = None
    for event in events:
        at = moment_of(event.get("lastTimestamp") or event.get("eventTime"))
        if at is None or (event.get("involvedObject") or {}).get("uid") != uid:
            continue
        if (now - at).total_seconds() < REFUSAL_AGE_S and (newest is None or at > newest[0]):
            newest = (at, str(event.get("message") or ""))
    return newest[1] if newest else ""


def _next_look(case: Case, made: Plan, outcome: Outcome) -> float:
    again = _after(case, made, outcome)
    return min(again, CERTIFICATES_AGAIN_S) if case.certificates else again


def _after(case: Case, made: Plan, outcome: Outcome) -> float:
    existing = case.around.stateful_set
    if outcome.foreign or outcome.refusals or outcome.foreign != dict(case.memory.foreign):
        first_time = outcome.foreign != dict(case.memory.foreign) or outcome.refusals != dict(case.memory.refusals)
        return min(made.look_again_s, 0.1 if first_time else 5.0)
    if existing is not None and len(case.around.pods) < existing.replicas:
        return min(made.look_again_s, 1.5)
    return made.look_again_s
