"""A small client of the Kubernetes API for one Lease and the pods of one cluster (aiohttp).

Used by ``replicator.elected``. ``KubeAPI`` makes requests, ``credentials`` finds the API
server and the pod's token. Errors: ``Conflict``, ``NotFound``, ``Unauthorized``,
``APIUnavailable``.
"""

from sqlitecluster.kubeapi.client import KubeAPI, Pod
from sqlitecluster.kubeapi.credentials import Credentials
from sqlitecluster.kubeapi.errors import APIUnavailable, Conflict, KubeError, NotFound, Unauthorized

__all__ = ["APIUnavailable", "Conflict", "Credentials", "KubeAPI", "KubeError", "NotFound", "Pod", "Unauthorized"]
