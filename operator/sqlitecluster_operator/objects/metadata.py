"""Metadata of what the operator makes: labels, owner, and the hash by which a change is seen. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sqlitecluster_operator import names
from sqlitecluster_operator.api import SQLiteCluster

Object = dict[str, Any]


def metadata(cluster: SQLiteCluster, name: str, **more: Any) -> Object:
    """Metadata of an object of the cluster."""
    raw = {"metadata": {"name": cluster.metadata.name, "uid": cluster.metadata.uid}}
    return {
        "name": name,
        "namespace": cluster.metadata.namespace,
        "labels": names.labels(cluster.metadata.name),
        "ownerReferences": [names.owner_reference(raw)],
        **more,
    }


def digest(value: object) -> str:
    """A short hash of anything that is JSON; equal values have equal hashes whatever their order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sealed(body: Object) -> Object:
    """The object with its own hash in an annotation."""
    meta = body["metadata"]
    notes = {**(meta.get("annotations") or {}), names.ANNOTATION_APPLIED: digest(body)}
    return {**body, "metadata": {**meta, "annotations": notes}}


def merged(*mappings: Mapping[str, str] | None) -> dict[str, str]:
    """One mapping; what comes later wins."""
    return {key: value for one in mappings for key, value in (one or {}).items()}
