"""The API ``sqlitecluster.dev/v1alpha1``: models, validation, and the CRD generated from them.

parse(obj) -> SQLiteCluster                 the object of the API server as values
validate(obj, old=None) -> list[Problem]    the rules of the CRD, in Python
duration_seconds("1m30s"), quantity_value("1Gi")
python -m sqlitecluster_operator.api.generate [--check]
"""

from sqlitecluster_operator.api.base import (
    API_VERSION,
    GROUP,
    VERSION,
    duration_seconds,
    quantity_value,
)
from sqlitecluster_operator.api.cluster import CRD_NAME, KIND, PLURAL, ObjectMeta, SQLiteCluster
from sqlitecluster_operator.api.pods import RESERVED_PORTS, SIDECAR_CONTAINER
from sqlitecluster_operator.api.spec import SQLiteClusterSpec
from sqlitecluster_operator.api.status import (
    HANDLED_MAX,
    HISTORY_MAX,
    Condition,
    Handoff,
    InstanceStatus,
    SQLiteClusterStatus,
)
from sqlitecluster_operator.api.validate import Problem, parse, validate

__all__ = [
    "API_VERSION",
    "CRD_NAME",
    "GROUP",
    "HANDLED_MAX",
    "HISTORY_MAX",
    "KIND",
    "PLURAL",
    "RESERVED_PORTS",
    "SIDECAR_CONTAINER",
    "VERSION",
    "Condition",
    "Handoff",
    "InstanceStatus",
    "ObjectMeta",
    "Problem",
    "SQLiteCluster",
    "SQLiteClusterSpec",
    "SQLiteClusterStatus",
    "duration_seconds",
    "parse",
    "quantity_value",
    "validate",
]
