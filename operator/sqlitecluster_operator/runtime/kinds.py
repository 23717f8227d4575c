"""The kinds of objects that the operator reads and writes, and their places in the API.

Pure values, used by ``api`` (paths), ``store`` (what is remembered) and ``objects`` (what is made).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlitecluster_operator import names


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind: how objects call it, and how the API's paths do."""

    api_version: str
    name: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The path of a collection, an object or a part of one; no namespace means all of them."""
        group = "/api/" if "/" not in self.api_version else "/apis/"
        inside = f"/namespaces/{namespace}" if namespace and self.namespaced else ""
        tail = "".join(f"/{part}" for part in (name, subresource) if part)
        return f"{group}{self.api_version}{inside}/{self.plural}{tail}"


_RBAC: Final = "rbac.authorization.k8s.io/v1"

CLUSTER: Final = Kind(f"{names.GROUP}/{names.VERSION}", names.KIND, names.PLURAL)
STATEFUL_SET: Final = Kind("apps/v1", "StatefulSet", "statefulsets")
POD: Final = Kind("v1", "Pod", "pods")
LEASE: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
CLAIM: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
NODE: Final = Kind("v1", "Node", "nodes", namespaced=False)
SECRET: Final = Kind("v1", "Secret", "secrets")
EVENT: Final = Kind("v1", "Event", "events")
SERVICE: Final = Kind("v1", "Service", "services")
CONFIG_MAP: Final = Kind("v1", "ConfigMap", "configmaps")
SERVICE_ACCOUNT: Final = Kind("v1", "ServiceAccount", "serviceaccounts")
ROLE: Final = Kind(_RBAC, "Role", "roles")
ROLE_BINDING: Final = Kind(_RBAC, "RoleBinding", "rolebindings")
DISRUPTION_BUDGET: Final = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
NETWORK_POLICY: Final = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
POD_MONITOR: Final = Kind("monitoring.coreos.com/v1", "PodMonitor", "podmonitors")

OWNED: Final = (
    SERVICE_ACCOUNT,
    ROLE,
    ROLE_BINDING,
    CONFIG_MAP,
    SERVICE,
    DISRUPTION_BUDGET,
    NETWORK_POLICY,
    POD_MONITOR,
    LEASE,
    STATEFUL_SET,
)
"""What the operator makes for a cluster, in the order in which it is made."""

UNWATCHED: Final = (POD_MONITOR,)
"""May not exist in the Kubernetes cluster, so nobody watches them; they are applied when they changed here.
When they are not wanted any more, and once after a start, they are looked for and removed."""

BY_NAME: Final = {kind.name: kind for kind in (CLUSTER, POD, CLAIM, NODE, SECRET, EVENT, *OWNED)}

WATCHED: Final = (CLUSTER, POD, CLAIM, NODE, *(kind for kind in OWNED if kind not in UNWATCHED))
"""Of which events are taken; all but clusters and nodes only with our own label."""
