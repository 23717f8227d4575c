"""A real Kubernetes cluster on this machine: three nodes in namespaces, made in seconds, gone without a trace.

``python -m localcluster up`` and ``Cluster().up()`` do the same. Programs come from
``tools/kubernetes`` (built once, cached), containers from Debian's containerd.
"""

from localcluster.cluster import Cluster
from localcluster.errors import ClusterError

__all__ = ["Cluster", "ClusterError"]
