"""Values for tests of the operator's decisions: a healthy cluster of three, to be changed by each test."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlitecluster_operator import names, objects
from sqlitecluster_operator.api import parse
from sqlitecluster_operator.reconcile import intent as intents
from sqlitecluster_operator.reconcile.actions import ABSENT, AnnotateLease, DeletePod, Memory, Plan
from sqlitecluster_operator.reconcile.case import Case
from sqlitecluster_operator.reconcile.observed import (
    LeaseView,
    PodView,
    StatefulSetView,
    Surroundings,
    read_fingerprint,
)
from sqlitecluster_operator.reconcile.plan import plan

NOW = dt.datetime(2026, 11, 21, 12, 0, 0, tzinfo=dt.UTC)
CLOCK = 1000.0
STATUS = {"epoch": 1, "clusterID": "LFSC0123456789ABCDEF"}
UID = "11111111-2222-3333-4444-555555555555"
SETTINGS = objects.Settings("sidecar:1")
TEMPLATE = {
    "spec": {"containers": [{"name": "app", "image": "notes:1", "ports": [{"name": "http", "containerPort": 80}]}]}
}


def cluster(
    spec: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    status: Mapping[str, Any] | None = None,
    **metadata: Any,
) -> dict[str, Any]:
    """A SQLiteCluster as the API server gives it."""
    meta = {
        "name": "notes",
        "namespace": "shop",
        "uid": UID,
        "generation": 1,
        "resourceVersion": "5",
        "finalizers": [names.FINALIZER],
        "annotations": dict(annotations or {}),
        **metadata,
    }
    whole = {"instances": 3, "storage": {"size": "1Gi"}, "template": TEMPLATE, **(spec or {})}
    body = {"apiVersion": "sqlitecluster.dev/v1alpha1", "kind": "SQLiteCluster", "metadata": meta, "spec": whole}
    return {**body, "status": dict(STATUS if status is None else status)}


def pods_of(raw: Mapping[str, Any], count: int = 3, settings: objects.Settings = SETTINGS) -> tuple[PodView, ...]:
    """Healthy pods that are as the spec says; notes-0 is the primary."""
    parsed = intents.read(raw, settings)
    return tuple(
        PodView(
            name=f"notes-{number}",
            uid=f"uid-{number}",
            ordinal=number,
            node=f"node{number + 1}",
            ip=f"10.0.0.{number}",
            phase="Running",
            ready=True,
            role="replica" if number else "primary",
            labelled=True,
            template_hash=parsed.template_hash,
            user_hash=parsed.user_hash,
            sidecar_running=True,
            sidecar_started=True,
            programs_since=NOW - dt.timedelta(minutes=59),
        )
        for number in range(count)
    )


def lease(holder: str = "notes-0_uid-0", **more: Any) -> LeaseView:
    """A Lease that was renewed just now."""
    seen_at = more.pop("seen_at", CLOCK)
    return LeaseView("lease-uid", "9", holder, more.pop("epoch", 1), seen_at=seen_at, **more)


def case(
    raw: Mapping[str, Any] | None = None,
    pods: Sequence[PodView] | None = None,
    held: LeaseView | None = None,
    **more: Any,
) -> Case:
    """A settled cluster: everything is as its spec says, unless the test changes it."""
    raw = raw or cluster()
    settings = more.pop("settings", SETTINGS)
    parsed = intents.read(raw, settings)
    pods = pods_of(raw) if pods is None else pods
    wanted = more.pop("replicas", raw["spec"].get("instances", 1))
    existing = more.pop(
        "stateful_set", StatefulSetView("sts-uid", wanted, len(pods), parsed.template_hash or "unknown")
    )
    around = Surroundings(
        stateful_set=existing,
        pods=tuple(pods),
        lease=held if held is not None else lease(),
        **more.pop("around", {}),
    )
    memory = more.pop("memory", Memory())
    if parsed.cluster is not None and not around.objects and existing is not None:
        around, memory = _applied(raw, parsed, around, memory, settings, wanted)
    return Case(
        cluster=raw,
        intent=intents.intent(raw, parsed, around, settings),
        problem=parsed.problem,
        around=around,
        memory=memory,
        now=more.pop("now", NOW),
        clock=more.pop("clock", CLOCK),
        **more,
    )


def _applied(
    raw: Mapping[str, Any], parsed: Any, around: Surroundings, memory: Memory, settings: objects.Settings, wanted: int
) -> tuple[Surroundings, Memory]:
    """As if everything had been applied and seen."""
    made = intents.intent(raw, parsed, around, settings)
    assert made is not None
    seen, applied = {}, {("PodMonitor", "notes"): ABSENT}
    for body in made.build(wanted):
        place = (body["kind"], body["metadata"]["name"])
        meta = {**body["metadata"], "uid": f"uid of {place[1]}", "resourceVersion": "7"}
        seen[place] = read_fingerprint({**body, "metadata": meta})
        applied[place] = seen[place].version
    return replace(around, objects=seen), replace(memory, applied=applied)


def decide(*arguments: Any, **more: Any) -> Plan:
    """The plan for ``case(…)``."""
    return plan(case(*arguments, **more))


def condition(made: Plan, kind: str = "Ready") -> Mapping[str, Any]:
    """A condition of the plan's status."""
    assert made.status is not None
    return next(one for one in made.status["conditions"] if one["type"] == kind)


def kinds_of(made: Plan) -> list[str]:
    """What the plan does, by the names of its actions."""
    return [type(action).__name__ for action in made.actions]


def read(raw: Mapping[str, Any]) -> Any:
    """The object as the operator's models read it."""
    return parse({key: value for key, value in raw.items() if key != "status"})


LATER = CLOCK - 100.0
"""First seen long ago, for what must last a while."""


def changed(pods: tuple[PodView, ...], number: int, **change: Any) -> tuple[PodView, ...]:
    return tuple(replace(pod, **change) if pod.ordinal == number else pod for pod in pods)


def lasting(*what: str) -> Memory:
    return Memory(since=dict.fromkeys(what, LATER))


def deleted(made: Any) -> list[str]:
    return [action.name for action in made.actions if isinstance(action, DeletePod)]


def asked(made: Any) -> dict[str, Any] | None:
    """The hand-off that the plan writes to the Lease."""
    for action in made.actions:
        if isinstance(action, AnnotateLease) and action.annotations.get(names.ANNOTATION_HANDOFF):
            found = json.loads(str(action.annotations[names.ANNOTATION_HANDOFF]))
            assert isinstance(found, dict)
            return found
    return None


DONE = {"id": "a", "kind": "handoff", "to": "notes-2", "phase": "Completed"}
OPEN = {"id": "a", "kind": "handoff", "from": "notes-0", "to": "notes-2", "phase": "Requested", "requestedBy": "me"}
ASKED_NOW = {"requestedAt": NOW.strftime("%Y-%m-%dT%H:%M:%SZ")}
ASKED_LONG_AGO = {"requestedAt": (NOW - dt.timedelta(seconds=90)).strftime("%Y-%m-%dT%H:%M:%SZ")}


def handed(annotations: dict[str, str], record: dict[str, Any] | None = None, **more: Any) -> Any:
    status = {"epoch": 1, "clusterID": "LFSC0123456789ABCDEF", **({"handoff": record} if record else {})}
    history = more.pop("history", None)
    return decide(cluster(annotations=annotations, status=status | ({"history": history} if history else {})), **more)
