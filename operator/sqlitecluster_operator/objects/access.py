"""What a cluster's pods may do in the API: their ServiceAccount, Role and RoleBinding. Pure."""

from __future__ import annotations

from sqlitecluster_operator import names
from sqlitecluster_operator.api import SQLiteCluster
from sqlitecluster_operator.objects.metadata import Object, metadata


def service_account(cluster: SQLiteCluster) -> Object:
    """Whom the pods are; its token is mounted into the sidecar only."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(cluster, cluster.metadata.name),
        "automountServiceAccountToken": False,
    }


def role(cluster: SQLiteCluster, pods: int) -> Object:
    """Their own Lease and the labels of their own pods, by name; reading pods of the namespace."""
    name = cluster.metadata.name
    own_pods = [names.pod(name, ordinal) for ordinal in range(pods)]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": metadata(cluster, name),
        "rules": [
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": [name],
                "verbs": ["get", "update", "watch"],
            },
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": [""], "resources": ["pods"], "resourceNames": own_pods, "verbs": ["patch"]},
        ],
    }


def role_binding(cluster: SQLiteCluster) -> Object:
    """Gives the Role to the ServiceAccount."""
    name = cluster.metadata.name
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata(cluster, name),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": cluster.metadata.namespace}],
    }
