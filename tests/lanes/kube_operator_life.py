"""Scenes of lane ``kube_operator``: the life of a cluster as users see it."""

from __future__ import annotations

import json
from typing import Any

from sqlitecluster_operator import names
from support import kube, lane
from support.operatorscene import Scene, condition, manifest, release, scene

CASES, case = lane.registry()

OBJECTS = (
    "serviceaccount/notes",
    "role/notes",
    "rolebinding/notes",
    "configmap/notes-config",
    "configmap/notes-trust",
    "secret/notes-ca",
    "service/notes-pods",
    "service/notes-rw",
    "service/notes-ro",
    "service/notes-r",
    "networkpolicy/notes",
    "poddisruptionbudget/notes",
    "lease/notes",
    "statefulset/notes",
)


@case
def objects_are_made(run: lane.Run) -> None:
    """A short object becomes a healthy cluster with everything it needs."""
    with scene(run.new_folder("made")) as made:
        made.apply()
        status = made.ready()
        assert status["currentPrimary"] == "notes-0", status
        assert status["clusterID"], status
        for what in OBJECTS:
            owners = made.get(what)["metadata"].get("ownerReferences") or [{}]
            assert owners[0].get("kind") == "SQLiteCluster", f"{what} has no owner"
        kube.kubectl("-n", made.namespace, "wait", "sqlitecluster/notes", "--for=condition=Ready", "--timeout=10s")
        columns = kube.kubectl("-n", made.namespace, "get", "sqc")
        assert "3/3" in columns and "notes-0" in columns and "ClusterHealthy" in columns, columns
        about_us = ("--field-selector", "involvedObject.kind=SQLiteCluster")
        assert "NewPrimary" in kube.kubectl("-n", made.namespace, "get", "events", *about_us)
        made.until("claims are marked", lambda: _marks(made) == [status["clusterID"]] * 3)


@case
def an_update_goes_replicas_first_and_primary_last(run: lane.Run) -> None:
    """A new image: one pod at a time, a hand-off, then the old primary."""
    with scene(run.new_folder("update")) as made:
        made.apply()
        made.ready()
        before = [pod["metadata"]["uid"] for pod in made.pods()]
        made.apply(template=manifest(image="notes:2")["spec"]["template"])
        made.until("the new image", lambda: _images(made) == ["notes:2"] * 3, 90)
        status = made.ready()
        assert status["currentPrimary"] != "notes-0", status
        assert status["handoff"]["phase"] == "Completed", status["handoff"]
        assert not set(before) & {pod["metadata"]["uid"] for pod in made.pods()}
        order = [line for line in made.operator.log.read_text().splitlines() if "ReplacingPod" in line]
        replaced = [line.split("ReplacingPod: ")[1].split()[0] for line in order]
        assert replaced == ["notes-2", "notes-1", "notes-0"], replaced


@case
def a_pod_that_does_not_get_ready_stops_the_update(run: lane.Run) -> None:
    """A bad image costs one replica; a good one heals it."""
    with scene(run.new_folder("bad")) as made:
        made.apply()
        made.ready()
        made.puppets.unready.add("notes-2")
        made.apply(template=manifest(image="bad:1")["spec"]["template"])
        made.until("one pod is new", lambda: _images(made).count("bad:1") == 1)
        made.reason("ImageUpdating")
        for _ in range(10):
            assert _images(made).count("bad:1") <= 1, "the update went on although a pod is not ready"
            kube.time.sleep(0.5)
        made.puppets.unready.clear()
        made.apply(template=manifest(image="good:1")["spec"]["template"])
        made.until("the good image", lambda: _images(made) == ["good:1"] * 3, 90)
        made.ready()


@case
def what_others_change_is_set_right_and_theirs_stays(run: lane.Run) -> None:
    """Drift is repaired; labels, annotations and fields of others stay."""
    with scene(run.new_folder("drift")) as made:
        made.apply()
        made.ready()
        n = made.namespace
        kube.kubectl("-n", n, "annotate", "service/notes-rw", "mine=kept")
        kube.kubectl(
            "-n", n, "patch", "service/notes-rw", "-p", '{"spec":{"selector":{"sqlitecluster.dev/role":"nobody"}}}'
        )
        kube.kubectl("-n", n, "delete", "service/notes-ro", "poddisruptionbudget/notes", "configmap/notes-trust")
        made.until("the selector", lambda: _selector(made) == "primary")
        for what in ("service/notes-ro", "poddisruptionbudget/notes", "configmap/notes-trust"):
            made.until(what, lambda what=what: made.exists(what))
        assert made.get("service/notes-rw")["metadata"]["annotations"]["mine"] == "kept"
        made.patch('{"spec":{"services":{"ro":{"enabled":false}},"disruptionBudget":"Disabled"}}')
        made.until("-ro is gone", lambda: not made.exists("service/notes-ro"))
        made.until("the budget is gone", lambda: not made.exists("poddisruptionbudget/notes"))
        made.ready()


@case
def users_fields_are_theirs(run: lane.Run) -> None:
    """GitOps: the operator owns nothing of spec and removes no annotation."""
    with scene(run.new_folder("gitops")) as made:
        made.apply()
        made.annotate("team=shop", f"{names.ANNOTATION_HANDOFF_TO}=*", f"{names.ANNOTATION_HANDOFF_ID}=g1")
        made.ready()
        made.until("hand-off", lambda: (made.status().get("handoff") or {}).get("phase") == "Completed")
        raw = json.loads(
            kube.kubectl("-n", made.namespace, "get", "sqlitecluster/notes", "-o", "json", "--show-managed-fields")
        )
        assert raw["metadata"]["annotations"]["team"] == "shop"
        assert raw["metadata"]["annotations"][names.ANNOTATION_HANDOFF_TO] == "*"
        managers = {one["manager"] for one in raw["metadata"]["managedFields"]}
        assert all(one == names.FIELD_MANAGER or one.startswith("kubectl") for one in managers), managers
        ours = [one for one in raw["metadata"]["managedFields"] if one["manager"] == names.FIELD_MANAGER]
        assert ours
        for one in ours:
            owned = one["fieldsV1"]
            assert "f:spec" not in owned, owned
            assert "f:annotations" not in owned.get("f:metadata", {}), owned
        assert all("kopf" not in key for key in raw["metadata"]["annotations"])


@case
def a_hand_off_is_done_once(run: lane.Run) -> None:
    """By annotation: to a pod, to any, demote; the same id twice is once; nonsense is refused readably."""
    with scene(run.new_folder("handoff")) as made:
        made.apply()
        made.ready()

        def ask(key: str, to: str, id_: str, phase: str = "Completed") -> dict[str, Any]:
            made.annotate(f"{key}={to}", f"{names.ANNOTATION_HANDOFF_ID}={id_}")

            def look() -> dict[str, Any] | None:
                found = made.status().get("handoff") or {}
                return found if (found.get("id"), found.get("phase")) == (id_, phase) else None

            found = made.until(f"hand-off {id_}", look)
            assert isinstance(found, dict)
            return found

        done = ask(names.ANNOTATION_HANDOFF_TO, "notes-2", "a")
        assert done["writeGapMillis"] == 5, done
        assert "kubectl" in done["requestedBy"], done
        assert made.ready()["currentPrimary"] == "notes-2"
        ask(names.ANNOTATION_HANDOFF_TO, "notes-7", "b", "Failed")
        ask(names.ANNOTATION_HANDOFF_TO, "*", "c")
        count = made.puppets.handoffs
        made.annotate(f"{names.ANNOTATION_HANDOFF_TO}=notes-2", f"{names.ANNOTATION_HANDOFF_ID}=a")
        kube.time.sleep(3)
        assert made.puppets.handoffs == count, "the same id was done twice"
        kube.kubectl("-n", made.namespace, "annotate", "sqlitecluster/notes", f"{names.ANNOTATION_HANDOFF_TO}-")
        ask(names.ANNOTATION_DEMOTE, made.status()["currentPrimary"], "d")
        assert [one["id"] for one in made.status()["history"]] == ["d", "c", "b", "a"]


@case
def scale_up_and_down(run: lane.Run) -> None:
    """1, 3, 5, 2, 3: the primary moves away before its pod goes; volumes stay."""
    with scene(run.new_folder("scale")) as made:
        made.apply(instances=1)
        made.ready(count=1)
        for wanted in (3, 5):
            kube.kubectl("-n", made.namespace, "scale", "sqlitecluster/notes", f"--replicas={wanted}")
            made.ready(count=wanted)
        made.annotate(f"{names.ANNOTATION_HANDOFF_TO}=notes-4", f"{names.ANNOTATION_HANDOFF_ID}=up")
        made.until("notes-4 leads", lambda: made.status().get("currentPrimary") == "notes-4")
        for wanted in (2, 3):
            kube.kubectl("-n", made.namespace, "scale", "sqlitecluster/notes", f"--replicas={wanted}")
            status = made.ready(count=wanted)
            assert status["currentPrimary"] in ("notes-0", "notes-1"), status
        assert any("scale-down" in one["requestedBy"] for one in status["history"]), status["history"]
        assert len(made.get("persistentvolumeclaims")["items"]) == 5


@case
def a_foreign_object_is_never_taken(run: lane.Run) -> None:
    """A Service of somebody else keeps its name; the cluster says what is in the way, and goes on when it is gone."""
    with scene(run.new_folder("foreign")) as made:
        theirs = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "notes-rw"},
            "spec": {"ports": [{"port": 1}]},
        }
        kube.apply(theirs, made.namespace)
        version = made.get("service/notes-rw")["metadata"]["resourceVersion"]
        made.apply()
        found = made.reason("ForeignObject")
        assert "notes-rw" in found["message"], found
        assert condition(made.status(), "Stalled")["status"] == "True"
        assert made.get("service/notes-rw")["metadata"]["resourceVersion"] == version
        kube.kubectl("-n", made.namespace, "delete", "service/notes-rw")
        made.ready()


@case
def deletion_keeps_the_volumes(run: lane.Run) -> None:
    """Objects go, volumes stay, a cluster of the same name takes them up; without an operator one line helps."""
    with scene(run.new_folder("delete")) as made:
        made.apply()
        first = made.ready()["clusterID"]
        made.until("marked", lambda: all(_marks(made)))
        kube.kubectl("-n", made.namespace, "delete", "sqlitecluster/notes", "--timeout=60s", limit_s=70)
        for what in OBJECTS:
            made.until(f"{what} is gone", lambda what=what: not made.exists(what))
        assert len(made.get("persistentvolumeclaims")["items"]) == 3
        made.apply()
        assert made.ready(limit_s=90)["clusterID"] == first
        made.operator.kill()
        kube.kubectl("-n", made.namespace, "delete", "sqlitecluster/notes", "--wait=false")
        release(made.namespace, "notes")
        made.until("the cluster is gone", lambda: not made.exists("sqlitecluster/notes"))


@case
def a_lost_lease_goes_on_with_its_epoch(run: lane.Run) -> None:
    """Deleted, the Lease is made anew and does not begin at 0."""
    with scene(run.new_folder("lease")) as made:
        made.apply()
        made.ready()
        for number in range(3):
            made.annotate(f"{names.ANNOTATION_HANDOFF_TO}=*", f"{names.ANNOTATION_HANDOFF_ID}=e{number}")
            made.until("done", lambda number=number: (made.status().get("handoff") or {}).get("id") == f"e{number}")
            made.ready()
        epoch = made.status()["epoch"]
        assert epoch >= 4, epoch
        kube.kubectl("-n", made.namespace, "delete", "lease/notes")
        made.until("the Lease", lambda: made.exists("lease/notes"), 5)
        made.ready()
        assert made.status()["epoch"] > epoch


@case
def hibernate_suspend_and_fence(run: lane.Run) -> None:
    """Hibernation removes pods and brings them back; suspended nothing changes; a fence is written to the Lease."""
    with scene(run.new_folder("sleep")) as made:
        made.apply()
        made.ready()
        made.patch('{"spec":{"hibernate":true}}')
        made.reason("Hibernated")
        assert made.pods() == []
        made.patch('{"spec":{"hibernate":false}}')
        made.ready()
        made.patch('{"spec":{"suspend":true,"instances":5}}')
        made.reason("Suspended")
        kube.time.sleep(2)
        assert len(made.pods()) == 3
        made.patch('{"spec":{"suspend":false,"instances":3,"fence":["notes-1"]}}')
        made.until(
            "the fence",
            lambda: made.get("lease/notes")["metadata"]["annotations"].get(names.ANNOTATION_FENCED) == '["notes-1"]',
        )
        made.patch('{"spec":{"fence":[]}}')
        made.until("no fence", lambda: not _fence(made))


@case
def a_pod_that_the_namespace_refuses(run: lane.Run) -> None:
    """Pod Security baseline: the server's words and the cure; healed when the label is gone."""
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    with scene(run.new_folder("refused"), labels=labels) as made:
        made.apply()
        found = made.reason("PodRejected")
        assert "violates PodSecurity" in found["message"], found
        assert "pod-security.kubernetes.io/enforce=privileged" in found["message"], found
        kube.kubectl(
            "label", "namespace", made.namespace, "--overwrite", "pod-security.kubernetes.io/enforce=privileged"
        )
        made.ready(limit_s=120)


@case
def a_pod_beyond_the_quota(run: lane.Run) -> None:
    """An exhausted quota: the server's words and the cure; healed when the quota is raised."""
    with scene(run.new_folder("quota")) as made:
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "small"},
            "spec": {"hard": {"pods": "1"}},
        }
        kube.apply(quota, made.namespace)
        made.apply()
        found = made.reason("PodRejected")
        assert "exceeded quota" in found["message"] and "ResourceQuota" in found["message"], found
        kube.kubectl("-n", made.namespace, "patch", "resourcequota", "small", "-p", '{"spec":{"hard":{"pods":"9"}}}')
        made.ready(limit_s=120)


def _images(made: Scene) -> list[str]:
    return [pod["spec"]["containers"][0]["image"] for pod in made.pods()]


def _selector(made: Scene) -> str:
    return str(made.get("service/notes-rw")["spec"]["selector"].get(names.LABEL_ROLE))


def _marks(made: Scene) -> list[str]:
    """Whose data the volumes hold."""
    notes = (one["metadata"].get("annotations") or {} for one in made.get("persistentvolumeclaims")["items"])
    return [str(one.get(names.ANNOTATION_CLUSTER_ID, "")) for one in notes]


def _fence(made: Scene) -> str:
    return str(made.get("lease/notes")["metadata"]["annotations"].get(names.ANNOTATION_FENCED, ""))
