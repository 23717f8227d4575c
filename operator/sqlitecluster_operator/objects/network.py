"""How a cluster is reached: Services and NetworkPolicy. Pure."""

from __future__ import annotations

from sqlitecluster_operator import names
from sqlitecluster_operator.api import SQLiteCluster
from sqlitecluster_operator.objects import pods
from sqlitecluster_operator.objects.metadata import Object, merged, metadata


def headless(cluster: SQLiteCluster) -> Object:
    """Gives pods their names, also before they are ready: peers find each other by them."""
    name = cluster.metadata.name
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(cluster, names.headless(name)),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": names.selector(name),
            "ports": [_own("sqlite-peers", names.PORT_PEERS), _own("sqlite-metrics", names.PORT_METRICS)],
        },
    }


def services(cluster: SQLiteCluster) -> list[Object]:
    """-rw, -ro and -r, as far as they are enabled."""
    name, wanted = cluster.metadata.name, cluster.spec.services
    roles = {"rw": {names.LABEL_ROLE: names.ROLE_PRIMARY}, "ro": {names.LABEL_ROLE: names.ROLE_REPLICA}, "r": {}}
    made = []
    for purpose, service in (("rw", wanted.rw), ("ro", wanted.ro), ("r", wanted.r)):
        if not service.enabled:
            continue
        template = service.template
        given = template.metadata if template else None
        meta = metadata(cluster, names.services(name)[purpose])
        meta["labels"] = merged(given.labels if given else None, meta["labels"])
        if given and given.annotations:
            meta["annotations"] = dict(given.annotations)
        spec: Object = template.spec.model_dump(mode="json", by_alias=True, exclude_none=True) if template else {}
        spec["selector"] = {**names.selector(name), **roles[purpose]}
        spec["ports"] = [*pods.named_ports(cluster), _own("sqlite-metrics", names.PORT_METRICS)]
        made.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
    return made


def policy(cluster: SQLiteCluster) -> Object:
    """Peers' port only from the cluster's own pods; the program's ports and metrics stay open."""
    name = cluster.metadata.name
    members = {"podSelector": {"matchLabels": names.selector(name)}}
    taken = names.PORT_PEERS
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(cluster, name),
        "spec": {
            "podSelector": {"matchLabels": names.selector(name)},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [members], "ports": [{"protocol": "TCP", "port": taken}]},
                {
                    "ports": [
                        {"protocol": "TCP", "port": 1, "endPort": taken - 1},
                        {"protocol": "TCP", "port": taken + 1, "endPort": 65535},
                        {"protocol": "UDP", "port": 1, "endPort": 65535},
                        {"protocol": "SCTP", "port": 1, "endPort": 65535},
                    ]
                },
            ],
        },
    }


def _own(name: str, port: int) -> Object:
    return {"name": name, "port": port, "targetPort": port, "protocol": "TCP"}
