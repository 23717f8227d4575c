"""Pods of the lane ``kube_cluster``, and asking them. They are of busybox, which every node has."""

from __future__ import annotations

import subprocess
from typing import Any

from support import kube

Body = dict[str, Any]

PORT = 8080
ASK_S = 5
SHORT_GRACE_S = 2
SERVE = f"echo page of $POD_NAMESPACE >/data/index.html; exec httpd -f -p {PORT} -h /data"
MOUNT = """\
stop() { umount -l /mnt/volume/inner; exit 0; }
trap stop TERM
mkdir -p /mnt/volume/inner
mount -t tmpfs tmpfs /mnt/volume/inner && echo mounted >/mnt/volume/inner/word
test -c /dev/fuse || exit 1
touch /tmp/ready
while true; do sleep 1; done
"""


def page(namespace: str) -> str:
    """What the pod ``web`` of a namespace serves."""
    return f"page of {namespace}"


def answer(url: str) -> str:
    """What is served at an address inside the cluster; empty when nothing answers."""
    try:
        done = kube.client(["curl", "-sSf", "-m", str(ASK_S), url], limit_s=ASK_S * 3)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def container(name: str, script: str, **more: object) -> Body:
    """A container with a shell program."""
    return {
        "name": name,
        "image": kube.TEST_IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        **more,
    }


def pod(name: str, containers: list[Body], **more: object) -> Body:
    """A pod that is quick to end."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"terminationGracePeriodSeconds": SHORT_GRACE_S, "containers": containers, **more},
    }


def one(name: str, image: str, command: list[str]) -> Body:
    """A pod of another image."""
    return pod(name, [{"name": name, "image": image, "imagePullPolicy": "Never", "command": command}])


def service(name: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": PORT}]},
    }


def _ready_when_it_answers() -> Body:
    return {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1}


def site() -> list[Body]:
    """A claim, a pod that serves it, a Service."""
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    namespace = {"name": "POD_NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}}
    web = container(
        "web",
        SERVE,
        env=[namespace],
        readinessProbe=_ready_when_it_answers(),
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
    )
    volume = {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}
    return [claim, pod("web", [web], volumes=[volume]), service("web")]


def crowd(count: int) -> list[Body]:
    """Pods on different nodes that each say their name, behind one Service."""
    script = f"mkdir /tmp/www && hostname >/tmp/www/index.html && exec httpd -f -p {PORT} -h /tmp/www"
    labels = {"app": "crowd"}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    template = {
        "metadata": {"labels": labels},
        "spec": {
            "terminationGracePeriodSeconds": SHORT_GRACE_S,
            "topologySpreadConstraints": [spread],
            "containers": [container("crowd", script, readinessProbe=_ready_when_it_answers())],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "crowd"},
        "spec": {"replicas": count, "selector": {"matchLabels": labels}, "template": template},
    }
    return [deployment, service("crowd")]


def shared_mount() -> Body:
    """A native sidecar that mounts, and a program that sees it."""
    sidecar = container(
        "mounter",
        MOUNT,
        restartPolicy="Always",
        securityContext={"privileged": True},
        startupProbe={"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1},
        volumeMounts=[{"name": "volume", "mountPath": "/mnt/volume", "mountPropagation": "Bidirectional"}],
    )
    program = container(
        "program",
        "exec sleep 100000",
        readinessProbe={"exec": {"command": ["test", "-e", "/data/inner/word"]}, "periodSeconds": 1},
        volumeMounts=[{"name": "volume", "mountPath": "/data", "mountPropagation": "HostToContainer"}],
    )
    return pod("mounts", [program], initContainers=[sidecar], volumes=[{"name": "volume", "emptyDir": {}}])


def with_token(audience: str) -> Body:
    """A pod with a token for somebody else than the API."""
    source = {"serviceAccountToken": {"audience": audience, "expirationSeconds": 3600, "path": "token"}}
    mount = {"name": "identity", "mountPath": "/identity"}
    volume = {"name": "identity", "projected": {"sources": [source]}}
    return pod("token", [container("token", "exec sleep 100000", volumeMounts=[mount])], volumes=[volume])


def token_review(token: str, audience: str) -> Body:
    return {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }


def closed_network() -> Body:
    """A NetworkPolicy (it is accepted; nothing enforces it here)."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "closed"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
