"""The objects of a cluster, built from its spec. Pure: a SQLiteCluster and settings in, manifests out.

``make`` returns everything that is applied, in order; ``lease`` is made once and then belongs
to the sidecars. Names are in ``names``, who decides when something is applied is ``reconcile``.
"""

from sqlitecluster_operator.objects.everything import Settings, lease, make

__all__ = ["Settings", "lease", "make"]
