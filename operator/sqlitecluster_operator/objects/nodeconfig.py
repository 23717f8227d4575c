"""The sidecar's configuration: node.yaml in a ConfigMap. Pure.

Keys are those of ``sqlitecluster.config``; a test loads what is made here with the sidecar's own reader.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

import yaml

from sqlitecluster.config import model as config
from sqlitecluster.config.load import camel
from sqlitecluster_operator import names
from sqlitecluster_operator.api import SQLiteCluster, SQLiteClusterSpec, duration_seconds, quantity_value
from sqlitecluster_operator.objects import bootstrap
from sqlitecluster_operator.objects.metadata import Object, metadata

DATA_DIR: Final = "/var/lib/sqlitecluster"
RUNTIME_DIR: Final = "/run/sqlitecluster"
MOUNT_VOLUME_DIR: Final = "/mnt/sqlite"
MOUNT_SUB_PATH: Final = "fs"
"""The mount is below the volume's root: with a dead mount on the root itself no container could start again."""
CONFIG_DIR: Final = "/etc/sqlitecluster"
IDENTITY_DIR: Final = "/var/run/sqlitecluster/identity"
API_DIR: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
RUN_AS: Final = 20202  # a number that programs hardly have; 65532 is many images' "nonroot"


def config_map(cluster: SQLiteCluster) -> Object:
    """The ConfigMap of a cluster's sidecars."""
    text = yaml.safe_dump(node_config(cluster), sort_keys=False, width=120)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(cluster, names.config_map(cluster.metadata.name)),
        "data": {names.CONFIG_FILE: text, **bootstrap.config(cluster)},
    }


def node_config(cluster: SQLiteCluster) -> dict[str, Any]:
    """What node.yaml says; ``${…}`` is filled in by each pod from its environment."""
    spec = cluster.spec
    return {
        "name": "${POD_NAME}",
        "role": "elected",
        "dataDir": DATA_DIR,
        "mountDir": f"{MOUNT_VOLUME_DIR}/{MOUNT_SUB_PATH}",
        "stackMounts": True,
        "runtimeDir": RUNTIME_DIR,
        "runOn": spec.run_on,
        "replicaWrites": spec.replica_writes,
        "compression": spec.replication.compression,
        **_replication(spec),
        "retention": _retention(spec),
        **({"maxLagS": duration_seconds(spec.replication.max_lag)} if spec.replication.max_lag else {}),
        "election": _election(cluster),
        "identity": {
            "directory": IDENTITY_DIR,
            "lifetimeS": duration_seconds(spec.tls.certificate_lifetime),
        },
        "runAs": {"uid": RUN_AS, "gid": RUN_AS},
        "logLevel": spec.sidecar.log_level,
        "logFormat": "json",
    }


def _election(cluster: SQLiteCluster) -> dict[str, Any]:
    primary = cluster.spec.primary
    return {
        "cluster": cluster.metadata.name,
        "namespace": "${POD_NAMESPACE}",
        "podUID": "${POD_UID}",
        "address": "${POD_IP}",
        "lease": {
            "durationS": primary.lease.lease_duration_seconds,
            "renewDeadlineS": primary.lease.renew_deadline_seconds,
            "retryPeriodS": primary.lease.retry_period_seconds,
            "marginMs": primary.fence.margin_millis,
        },
        **_unless_default({"apiOutagePolicy": primary.api_outage_policy}, config.Election),
        "failoverDelayS": duration_seconds(primary.failover_delay),
        "switchoverTimeoutS": duration_seconds(primary.switchover_timeout),
        "demoteDelayS": duration_seconds(primary.demote_delay),
        "credentialsDir": API_DIR,
        "peerDomain": f"{names.headless(cluster.metadata.name)}.${{POD_NAMESPACE}}.svc",
    }


def _replication(spec: SQLiteClusterSpec) -> dict[str, Any]:
    """When a commit is answered. With ``spread`` a node's zone is unknown until the operator has told the pod."""
    given = spec.replication
    values = {
        "mode": given.mode,
        "acks": given.acks,
        "ackTimeoutS": duration_seconds(given.ack_timeout),
        "durability": given.durability,
        "localDurability": given.local_durability,
        "checkpointPages": given.checkpoint_pages,
        "zone": names.ZONE_UNKNOWN if given.spread else "",
    }
    told = _unless_default(values, config.Replication)
    return {"replication": told} if told else {}


def _unless_default(values: dict[str, Any], section: type) -> dict[str, Any]:
    """What differs from the sidecar's own defaults: an older sidecar, which does not know the keys, can start."""
    defaults = {camel(one.name): one.default for one in fields(section)}
    return {key: value for key, value in values.items() if value != defaults[key]}


def _retention(spec: SQLiteClusterSpec) -> dict[str, Any]:
    limit = quantity_value(spec.retention.max_bytes) if spec.retention.max_bytes else None
    if limit is None:
        limit = quantity_value(spec.storage.size) / 5
    return {"ageS": duration_seconds(spec.retention.ltx), "sizeBytes": int(limit)}
