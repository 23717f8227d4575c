"""What a SQLiteCluster asks for, read from its spec: the rules first, then values for decisions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlitecluster_operator import names, objects
from sqlitecluster_operator.api import SQLiteCluster, duration_seconds, parse, validate
from sqlitecluster_operator.objects import pods
from sqlitecluster_operator.reconcile.case import Intent
from sqlitecluster_operator.reconcile.observed import Surroundings


@dataclass(frozen=True, slots=True)
class Parsed:
    """A spec that was read: kept until the object changes, because reading is most of the work."""

    cluster: SQLiteCluster | None
    problem: str
    template_hash: str = ""
    user_hash: str = ""


def read(raw: Mapping[str, Any], settings: objects.Settings) -> Parsed:
    """Check and parse a SQLiteCluster."""
    problems = validate({key: value for key, value in raw.items() if key != "status"})
    if problems:
        return Parsed(None, "; ".join(str(one) for one in problems[:5]))
    cluster = parse({key: value for key, value in raw.items() if key != "status"})
    notes = pods.template(cluster, settings.image, settings.pull_policy)["metadata"]["annotations"]
    return Parsed(cluster, "", notes[names.ANNOTATION_TEMPLATE], notes[names.ANNOTATION_USER_TEMPLATE])


def intent(raw: Mapping[str, Any], parsed: Parsed, around: Surroundings, settings: objects.Settings) -> Intent | None:
    """What is asked for, with what is there."""
    cluster = parsed.cluster
    if cluster is None:
        return None
    spec = cluster.spec
    identity = cluster_id(raw, around)
    templates = around.stateful_set.claim_templates if around.stateful_set else ()
    return Intent(
        instances=spec.instances,
        build=partial(_build, cluster, settings, templates),
        template_hash=parsed.template_hash,
        user_hash=parsed.user_hash,
        run_on_primary=spec.run_on == "Primary",
        storage_size=spec.storage.size,
        update=spec.update_strategy.type,
        primary_update=spec.update_strategy.primary,
        switchover_timeout_s=duration_seconds(spec.primary.switchover_timeout),
        suspend=spec.suspend,
        hibernate=spec.hibernate,
        fenced=frozenset(spec.fence),
        barred=_barred(cluster, around),
        cluster_id=identity,
        lease_duration_s=spec.primary.lease.lease_duration_seconds,
        quorum=spec.replication.is_quorum,
        spread=spec.replication.spread or "",
    )


def cluster_id(raw: Mapping[str, Any], around: Surroundings) -> str:
    """The identity of the data, which the first primary makes; volumes that outlived a SQLiteCluster know it too."""
    known = (raw.get("status") or {}).get("clusterID") or (around.lease.cluster_id if around.lease else "")
    if known:
        return str(known)
    kept = sorted((claim.name, claim.cluster_id) for claim in around.claims if claim.cluster_id)
    if kept:
        return kept[0][1]
    return ""


def _build(
    cluster: SQLiteCluster,
    settings: objects.Settings,
    templates: tuple[Mapping[str, Any], ...],
    replicas: int,
) -> tuple[Mapping[str, Any], ...]:
    return objects.make(cluster, settings, replicas, templates)


def _barred(cluster: SQLiteCluster, around: Surroundings) -> frozenset[str]:
    candidates = cluster.spec.primary.candidates
    if candidates is None:
        return frozenset()
    barred = set()
    for pod in around.pods:
        node = around.nodes.get(pod.node)
        unfit = candidates.selector is not None and not _matches(candidates.selector, pod.labels)
        if candidates.node_selector is not None and node is not None:
            unfit = unfit or not _matches(candidates.node_selector, node.labels)
        if unfit:
            barred.add(pod.name)
    return frozenset(barred)


def _matches(selector: Any, labels: Mapping[str, str]) -> bool:
    """A Kubernetes label selector on labels."""
    if any(labels.get(key) != value for key, value in (selector.match_labels or {}).items()):
        return False
    for one in selector.match_expressions or ():
        present, value = one.key in labels, labels.get(one.key)
        holds = {
            "In": present and value in one.values,
            "NotIn": not present or value not in one.values,
            "Exists": present,
            "DoesNotExist": not present,
        }
        if not holds[one.operator]:
            return False
    return True
