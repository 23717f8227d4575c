"""Plays kubelets and sidecars for pods that no node runs.

Pods of the tests ask for a node that does not exist, so they stay where they are; this gives
them the status that a kubelet would, and leads as their sidecars would: one of them holds the
Lease, hands off when it is asked to, and labels the roles.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sqlitecluster_operator import names
from sqlitecluster_operator.runtime import kinds
from sqlitecluster_operator.runtime.api import API, APIError, configuration, connect

NOWHERE = {"puppets.sqlitecluster.dev/node": "none"}
"""Node selector of pods that are to be played."""


class Puppets:
    """All pods of some namespaces (none: of all)."""

    def __init__(
        self, kubeconfig: Path, namespaces: Iterable[str] = (), every_s: float = 0.4, renew_s: float = 3.0
    ) -> None:
        self._api: API = connect(configuration(str(kubeconfig)))
        self._namespaces = tuple(namespaces) or ("",)
        self._every_s = every_s
        self._renew_s = renew_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="puppets", daemon=True)
        self._stop = threading.Event()
        self._renewed: dict[tuple[str, str], float] = {}
        self.unready: set[str] = set()
        """Names of pods that are not to become ready."""
        self.handoffs = 0

    def start(self) -> Puppets:
        """Begin."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(30)
        self._api.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._play())

    async def _play(self) -> None:
        while not self._stop.is_set():
            for namespace in self._namespaces:
                try:
                    await self._round(namespace)
                except APIError as error:
                    print(f"    puppets: {error}", flush=True)
            await asyncio.sleep(self._every_s)

    async def _round(self, namespace: str) -> None:
        ours = f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
        pods, _ = await self._api.list(kinds.POD, namespace, labelSelector=ours)
        leases, _ = await self._api.list(kinds.LEASE, namespace, labelSelector=ours)
        by_cluster: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for pod in pods:
            meta = pod["metadata"]
            if not meta.get("deletionTimestamp"):
                by_cluster[meta["namespace"], meta["labels"][names.LABEL_CLUSTER]].append(pod)
        await asyncio.gather(*(self._ready(pod) for pod in pods), *(self._lead(lease, by_cluster) for lease in leases))

    async def _ready(self, pod: dict[str, Any]) -> None:
        meta, status = pod["metadata"], pod.get("status") or {}
        wanted = meta["name"] not in self.unready
        is_ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())
        if meta.get("deletionTimestamp") or (is_ready == wanted and status.get("phase") == "Running"):
            return
        body = {"metadata": {"uid": meta["uid"]}, "status": pod_status(pod, wanted)}
        await _quietly(self._api.patch(kinds.POD, meta["namespace"], meta["name"], body, "status"))

    async def _lead(self, lease: dict[str, Any], by_cluster: dict[tuple[str, str], list[dict[str, Any]]]) -> None:
        place = (lease["metadata"]["namespace"], lease["metadata"]["name"])
        alive = sorted(
            (pod for pod in by_cluster.get(place, ()) if _is_ready(pod)), key=lambda pod: str(pod["metadata"]["name"])
        )
        if not alive:
            return
        spec, notes = lease["spec"], lease["metadata"].setdefault("annotations", {})
        holders = {f"{pod['metadata']['name']}_{pod['metadata']['uid']}": pod for pod in alive}
        request = json.loads(notes.get(names.ANNOTATION_HANDOFF) or "{}")
        handled = notes.get(f"{names.GROUP}/handoff-handled")
        holder = spec.get("holderIdentity") or ""
        if holder not in holders:
            await self._take(lease, next(iter(holders)))
        elif request.get("id") and request["id"] != handled:
            await self._hand_off(lease, request, holders)
        elif self._loop.time() - self._renewed.get(place, 0.0) > self._renew_s:
            spec["renewTime"] = _micro()
            self._renewed[place] = self._loop.time()
            await _quietly(self._api.replace(kinds.LEASE, lease))
        else:
            await self._label(holders, holder)

    async def _take(self, lease: dict[str, Any], holder: str) -> None:
        notes = lease["metadata"]["annotations"]
        notes[names.ANNOTATION_EPOCH] = str(int(notes.get(names.ANNOTATION_EPOCH, "0")) + 1)
        notes.setdefault(names.ANNOTATION_CLUSTER_ID, "LFSC00000000000000AB")
        lease["spec"] |= {"holderIdentity": holder, "renewTime": _micro(), "acquireTime": _micro()}
        await _quietly(self._api.replace(kinds.LEASE, lease))

    async def _hand_off(self, lease: dict[str, Any], request: dict[str, Any], holders: dict[str, Any]) -> None:
        notes, old = lease["metadata"]["annotations"], lease["spec"]["holderIdentity"]
        others = [one for one in holders if one != old]
        named = [one for one in others if one.partition("_")[0] == request["to"]]
        free_choice = request["to"] == "*" or request["kind"] == "demote"
        target = named[0] if named and not free_choice else others[0] if others and free_choice else None
        result = {"id": request["id"], "from": old.partition("_")[0], "to": request["to"], "phase": "Failed"}
        notes[f"{names.GROUP}/handoff-handled"] = request["id"]
        if target is not None:
            self.handoffs += 1
            result |= {"to": target.partition("_")[0], "phase": "Completed", "durationMillis": 9, "writeGapMillis": 5}
            notes[names.ANNOTATION_HANDOFF_RESULT] = json.dumps(result)
            await self._take(lease, target)
            return
        notes[names.ANNOTATION_HANDOFF_RESULT] = json.dumps(result | {"message": "nobody can take over"})
        await _quietly(self._api.replace(kinds.LEASE, lease))

    async def _label(self, holders: dict[str, dict[str, Any]], holder: str) -> None:
        for name, pod in holders.items():
            role = names.ROLE_PRIMARY if name == holder else names.ROLE_REPLICA
            meta = pod["metadata"]
            if meta["labels"].get(names.LABEL_ROLE) != role:
                body = {"metadata": {"uid": meta["uid"], "labels": {names.LABEL_ROLE: role}}}
                await _quietly(self._api.patch(kinds.POD, meta["namespace"], meta["name"], body))


def pod_status(pod: dict[str, Any], ready: bool) -> dict[str, Any]:
    """What a kubelet would say of a pod that runs."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    word = "True" if ready else "False"

    def running(container: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": ready,
            "started": ready,
            "restartCount": 0,
            "state": {"running": {"startedAt": now}},
        }

    kinds_of_conditions = {"PodScheduled": "True", "Initialized": "True", "ContainersReady": word, "Ready": word}
    return {
        "phase": "Running",
        "podIP": "192.0.2.1",
        "podIPs": [{"ip": "192.0.2.1"}],
        "conditions": [
            {"type": kind, "status": value, "lastTransitionTime": now} for kind, value in kinds_of_conditions.items()
        ],
        "initContainerStatuses": [running(one) for one in pod["spec"].get("initContainers") or ()],
        "containerStatuses": [running(one) for one in pod["spec"]["containers"]],
    }


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _micro() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


async def _quietly(request: Any) -> None:
    """A request that may lose against somebody else's; the next round tries again."""
    try:
        await request
    except APIError:
        return
