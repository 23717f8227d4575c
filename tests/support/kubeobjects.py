"""A Kubernetes API made of dictionaries, for the parts that take their calls injected."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

from sqlitecluster_operator.identity.calls import Conflict, Object, Unreachable

ACCOUNT = "system:serviceaccount:"


@dataclass
class FakeCalls:
    """Objects by (kind, namespace, name), tokens by text."""

    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    tokens: dict[str, Object] = field(default_factory=dict)
    down: bool = False
    writes: int = 0
    conflicts: int = 0
    """So many of the next writes meet somebody else's."""
    reviewed: list[tuple[str, str]] = field(default_factory=list)
    _version: int = 0

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        self._check()
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def create(self, kind: str, body: Object) -> Object:
        key = self._key(kind, body)
        if key in self.objects:
            raise Conflict("exists")
        return self._write(key, body)

    async def replace(self, kind: str, body: Object) -> Object:
        key = self._key(kind, body)
        if body["metadata"].get("resourceVersion") != self.objects[key]["metadata"]["resourceVersion"]:
            raise Conflict("changed")
        return self._write(key, body)

    async def review(self, token: str, audience: str) -> Object:
        self._check()
        self.reviewed.append((token, audience))
        return copy.deepcopy(self.tokens.get(token, {"authenticated": False}))

    # -- for tests -------------------------------------------------------------------

    def add_cluster(self, namespace: str, name: str, pods: int = 3, **tls: str) -> Object:
        """A SQLiteCluster, its StatefulSet and its pods; token of pod P is ``token-P``."""
        uid = f"uid-{namespace}-{name}"
        body = self.put("SQLiteCluster", namespace, name, uid, spec={"tls": tls})
        self.put("StatefulSet", namespace, name, f"{uid}-sts", owner=("SQLiteCluster", uid))
        for index in range(pods):
            self.add_pod(namespace, name, f"{name}-{index}", f"{uid}-{index}")
        return body

    def add_pod(self, namespace: str, cluster: str, pod: str, uid: str) -> None:
        """A pod of a cluster, with a token."""
        self.put("Pod", namespace, pod, uid, owner=("StatefulSet", f"uid-{namespace}-{cluster}-sts"))
        self.tokens[f"token-{pod}"] = review(namespace, cluster, pod, uid)

    def put(
        self, kind: str, namespace: str, name: str, uid: str, owner: tuple[str, str] | None = None, **more: Any
    ) -> Object:
        owners = [{"kind": owner[0], "uid": owner[1], "controller": True}] if owner else []
        meta = {"namespace": namespace, "name": name, "uid": uid, "ownerReferences": owners}
        return self._write((kind, namespace, name), {"kind": kind, "metadata": meta, **more})

    def _check(self) -> None:
        if self.down:
            raise Unreachable("down")

    def _key(self, kind: str, body: Object) -> tuple[str, str, str]:
        self._check()
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict("somebody was faster")
        return kind, body["metadata"]["namespace"], body["metadata"]["name"]

    def _write(self, key: tuple[str, str, str], body: Object) -> Object:
        self._version += 1
        self.writes += 1
        stored = copy.deepcopy(body)
        stored["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = stored
        return copy.deepcopy(stored)


def review(namespace: str, account: str, pod: str, uid: str, audience: str = "sqlitecluster.dev") -> Object:
    """Status of the TokenReview of a pod's token."""
    extra = {"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid]}
    user = {"username": f"{ACCOUNT}{namespace}:{account}", "extra": extra}
    return {"authenticated": True, "audiences": [audience], "user": user}
