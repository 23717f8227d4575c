"""What the cluster holds from the start: the default StorageClass and CoreDNS. Pure."""

from __future__ import annotations

import json
from typing import TypeAlias

from localcluster.controlplane import PROVISIONER
from localcluster.layout import DNS_ADDRESS, DOMAIN

Manifest: TypeAlias = dict[str, object]

NAME = "coredns"
SYSTEM = "kube-system"
LABELS = {"k8s-app": "kube-dns"}

# Short caches: names of headless Services change quickly here. Names outside are refused.
COREFILE = f"""\
.:53 {{
    errors
    health
    ready
    kubernetes {DOMAIN} in-addr.arpa {{
        pods insecure
        ttl 2
    }}
    cache 2
    loadbalance
}}
"""


def storage_class() -> Manifest:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "local", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": True,
    }


def _meta(**more: object) -> Manifest:
    return {"name": NAME, "namespace": SYSTEM, "labels": LABELS, **more}


def dns(image: str) -> list[Manifest]:
    """CoreDNS: two pods, a fixed address, the rights to watch what names are made of."""
    rules = [
        {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"}
    rbac = "rbac.authorization.k8s.io/v1"
    subject = {"kind": "ServiceAccount", "name": NAME, "namespace": SYSTEM}
    ports = [{"name": f"dns-{p.lower()}" if p == "TCP" else "dns", "port": 53, "protocol": p} for p in ("UDP", "TCP")]
    return [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta()},
        {"apiVersion": rbac, "kind": "ClusterRole", "metadata": {"name": role["name"]}, "rules": rules},
        {
            "apiVersion": rbac,
            "kind": "ClusterRoleBinding",
            "metadata": {"name": role["name"]},
            "roleRef": role,
            "subjects": [subject],
        },
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(), "data": {"Corefile": COREFILE}},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": SYSTEM, "labels": LABELS},
            "spec": {"clusterIP": DNS_ADDRESS, "selector": LABELS, "ports": ports},
        },
        _dns_deployment(image),
    ]


def _dns_deployment(image: str) -> Manifest:
    container = {
        "name": NAME,
        "image": image,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": 8181}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "20Mi"}},
        "volumeMounts": [{"name": "config", "mountPath": "/etc/coredns"}],
    }
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": LABELS},
    }
    pod = {
        "serviceAccountName": NAME,
        "dnsPolicy": "Default",
        "priorityClassName": "system-cluster-critical",
        "topologySpreadConstraints": [spread],
        "containers": [container],
        "volumes": [{"name": "config", "configMap": {"name": NAME}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(),
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    }


def text(coredns_image: str) -> str:
    """All of it for one ``kubectl apply``."""
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": [storage_class(), *dns(coredns_image)]})
