"""Scenes of lane ``kube_operator``: acknowledged commits, zones, and a loss of data that somebody accepts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from sqlitecluster_operator import names
from support import kube, lane
from support.operatorscene import Scene, condition, scene
from support.puppets import NOWHERE

CASES, case = lane.registry()

RACK = "example.test/rack"
QUORUM = {"mode": "Quorum", "acks": 1}


@case
def when_a_commit_is_answered_reaches_replicas_first(run: lane.Run) -> None:
    """From Async to Quorum: the configuration, one pod at a time, the primary last after a hand-off."""
    with scene(run.new_folder("quorum")) as made:
        made.apply()
        made.ready()
        assert "replication" not in _node_yaml(made)
        made.patch(json.dumps({"spec": {"replication": {**QUORUM, "ackTimeout": "2s"}}}))
        made.until("new pods", lambda: len(_replaced(made)) == 3, 90)
        made.ready()
        assert _node_yaml(made)["replication"] == {"mode": "Quorum", "ackTimeoutS": 2.0}, _node_yaml(made)
        assert _replaced(made) == ["notes-2", "notes-1", "notes-0"], _replaced(made)
        assert made.status()["handoff"]["phase"] == "Completed"


@case
def pods_are_told_their_zone(run: lane.Run) -> None:
    """The node's label that spec.replication.spread names, as it is and as it becomes; none without ``spread``."""
    with scene(run.new_folder("zones")) as made, _node(made) as node:
        made.apply(replication={**QUORUM, "spread": RACK})
        made.ready()
        assert _zone(made, "notes-1") is None, "a pod on no node has a zone"
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "notes-1"}}
        body["target"] = {"apiVersion": "v1", "kind": "Node", "name": node}
        path = f"/api/v1/namespaces/{made.namespace}/pods/notes-1/binding"
        kube.kubectl("create", "--raw", path, "-f", "-", text=json.dumps(body))
        made.until("the zone of a node without the label", lambda: _zone(made, "notes-1") == names.ZONE_UNKNOWN)
        made.until("a warning", lambda: "ZoneUnknown" in kube.kubectl("-n", made.namespace, "get", "events"))
        kube.kubectl("label", "node", node, f"{RACK}=r1")
        made.until("the zone", lambda: _zone(made, "notes-1") == "r1")
        made.until("the zone in the status", lambda: _zones(made).get("notes-1") == "r1")


@case
def a_loss_of_data_is_accepted_once(run: lane.Run) -> None:
    """Passed on while nobody leads, taken back when somebody does, and not again by the annotation that stays."""
    with scene(run.new_folder("loss")) as made:
        made.apply()
        made.ready()
        _ask(made, "too-early")
        record = made.until("the refusal", lambda: _promotion(made, "too-early", "Failed"))
        assert "is the primary" in record["message"], record
        made.puppets.unready |= {"notes-0", "notes-1", "notes-2"}
        made.reason("FailingOver")
        assert _permission(made) is None, "a refused request was passed on"
        _ask(made, "incident-1")
        made.until("the permission", lambda: (_permission(made) or {}).get("id") == "incident-1")
        assert _promotion(made, "incident-1", "Requested")
        made.puppets.unready.clear()
        made.until("the end", lambda: _promotion(made, "incident-1", "Completed"))
        made.until("the permission is taken back", lambda: _permission(made) is None)
        made.ready()
        made.puppets.unready |= {"notes-0", "notes-1", "notes-2"}
        made.reason("FailingOver")
        for _ in range(6):
            assert _permission(made) is None, "an old annotation accepted a second loss"
            kube.time.sleep(0.5)
        events = kube.kubectl("-n", made.namespace, "get", "events")
        assert "PromotionRequested" in events and "PromotionCompleted" in events, events


@case
def fewer_acknowledgements_are_shown(run: lane.Run) -> None:
    """What a primary writes into the Lease becomes a condition, and ends with it."""
    with scene(run.new_folder("degraded")) as made:
        made.apply(replication={**QUORUM, "durability": "Preferred"})
        made.ready()
        since = f"{names.ANNOTATION_DEGRADED_SINCE}=2026-11-21T12:00:00Z"
        kube.kubectl("-n", made.namespace, "annotate", "lease/notes", since)
        found = made.reason("DurabilityDegraded")
        assert "2026-11-21T12:00:00Z" in found["message"], found
        shown = kube.kubectl("-n", made.namespace, "get", "sqc")
        assert "DurabilityDegraded" in shown, shown
        kube.kubectl("-n", made.namespace, "annotate", "lease/notes", f"{names.ANNOTATION_DEGRADED_SINCE}-")
        made.ready()
        assert condition(made.status(), "DurabilityDegraded")["status"] == "False"


def _node_yaml(made: Scene) -> dict[str, Any]:
    found = yaml.safe_load(made.get("configmap/notes-config")["data"]["node.yaml"])
    assert isinstance(found, dict)
    return found


def _replaced(made: Scene) -> list[str]:
    lines = [line for line in made.operator.log.read_text().splitlines() if "ReplacingPod: " in line]
    return [line.split("ReplacingPod: ")[1].split()[0] for line in lines]


def _zone(made: Scene, pod: str) -> str | None:
    found = (made.get(f"pod/{pod}")["metadata"].get("annotations") or {}).get(names.ANNOTATION_ZONE)
    assert found is None or isinstance(found, str)
    return found


def _zones(made: Scene) -> dict[str, str]:
    return {row["name"]: row.get("zone", "") for row in made.status()["instancesStatus"]}


def _ask(made: Scene, id_: str) -> None:
    words = (f"{names.ANNOTATION_PROMOTE}={names.ACCEPT_DATA_LOSS}", f"{names.ANNOTATION_PROMOTE_ID}={id_}")
    kube.kubectl("-n", made.namespace, "annotate", "sqc/notes", "--overwrite", *words)


def _promotion(made: Scene, id_: str, phase: str) -> dict[str, Any] | None:
    found = made.status().get("promotion") or {}
    return found if (found.get("id"), found.get("phase")) == (id_, phase) else None


def _permission(made: Scene) -> dict[str, Any] | None:
    text = (made.get("lease/notes")["metadata"].get("annotations") or {}).get(names.ANNOTATION_DATA_LOSS)
    return json.loads(text) if text else None


@contextmanager
def _node(made: Scene) -> Iterator[str]:
    """A node that no machine is behind; pods on it are ended with it."""
    name = f"{made.namespace}-node"
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": NOWHERE}}
    kube.kubectl("create", "-f", "-", text=json.dumps(body))
    try:
        yield name
    finally:
        kube.kubectl("-n", made.namespace, "delete", "pods", "--all", "--force", "--grace-period=0", limit_s=60)
        kube.kubectl("delete", "node", name)
