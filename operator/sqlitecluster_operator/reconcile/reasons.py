"""The words that a status uses: condition types and reasons, each with its meaning.

The only place where they are written; ``docs/operator.md`` has the same tables, and a test compares.
"""

from __future__ import annotations

from typing import Final

CONDITIONS: Final = {
    "Ready": "The sum: a primary serves and all instances do their part.",
    "Reconciling": "The operator is changing something, or waits for an effect.",
    "Stalled": "Nothing goes on without somebody's help.",
    "PrimaryAvailable": "An instance holds the Lease, renews it and serves.",
    "ReplicationHealthy": "All replicas serve, so they follow the primary.",
    "UpToDate": "All pods are as the spec and this operator's version say.",
    "StorageHealthy": "The volumes have the size that the spec asks for.",
    "CertificatesValid": "The cluster's certificate authority is in order.",
    "Fenced": "Instances are fenced by spec.fence.",
    "Hibernated": "All pods are gone, the volumes are kept.",
    "Suspended": "The operator changes nothing, by spec.suspend.",
    "QuorumLost": "Too few instances are there: commits fail, or nobody may lead.",
    "DurabilityDegraded": "Commits are answered with fewer acknowledgements than acks (durability: Preferred).",
    "HoldingByAgreement": "The primary goes on without an API server, because its peers agree.",
    "DataDiverged": "An instance kept transactions in lost+found that are not in the cluster's history.",
    "DataDamaged": "An instance found bytes on its disk that are not what was written.",
}

READY: Final = {
    "ClusterHealthy": "All instances do their part.",
    "Initializing": "The cluster never had a primary yet.",
    "SwitchoverInProgress": "A hand-off is under way.",
    "FailingOver": "The primary is gone; another instance takes over when its Lease has ended.",
    "NoPrimary": "Nobody may take over: all instances are gone, fenced or barred.",
    "QuorumLost": "Too few instances are there: commits fail, or nobody may lead; the message says which.",
    "HoldingByAgreement": "The primary cannot renew the Lease and goes on, because its peers agree.",
    "DurabilityDegraded": "All serve, but commits are still answered with fewer acknowledgements than acks.",
    "Degraded": "A primary serves, but an instance does not do its part.",
    "ImageUpdating": "Pods are being replaced, one at a time.",
    "WaitingForUser": "The update waits for a hand-off: updateStrategy.primary is Supervised.",
    "Scaling": "Instances are being added or removed.",
    "PodRejected": "The API server does not accept a pod; the message has its words and the cure.",
    "InvalidSpec": "The spec cannot be used; what runs is left as it is.",
    "ForeignObject": "Another object has a name that the operator needs; it is never taken over.",
    "Refused": "The API server refuses a change; the message has its words.",
    "Hibernating": "Nobody may write; pods go when all replicas have everything. The message says what is missing.",
    "Hibernated": "All pods are gone, the volumes are kept.",
    "Suspended": "The operator changes nothing; election and replication go on.",
    "Deleting": "The SQLiteCluster is being deleted: pods end before their objects do.",
}

CURES: Final = (
    (
        "PodSecurity",
        (
            "the sidecar mounts a file system and needs a privileged container: label the namespace with "
            "pod-security.kubernetes.io/enforce=privileged"
        ),
    ),
    ("exceeded quota", "raise the namespace's ResourceQuota, or lower requests and limits in the spec"),
    ("must specify limits", "a ResourceQuota demands limits: set them on all containers of the template"),
    ("must specify requests", "a ResourceQuota demands requests: set them on all containers of the template"),
    ("LimitRange", "a LimitRange of the namespace forbids these resources: change it, or the template"),
    ("minimum ", "a LimitRange of the namespace forbids these resources: change it, or the template"),
    ("maximum ", "a LimitRange of the namespace forbids these resources: change it, or the template"),
    ("admission webhook", "the owner of this webhook can tell why, or exempt the namespace"),
    ("serviceaccount", "the ServiceAccount is being made; if this stays, look whether something deletes it"),
)
"""What helps when the API server refuses a pod: a part of its words, and advice."""


def cure(refusal: str) -> str:
    """Advice for a refusal; general when the words are not known."""
    for part, advice in CURES:
        if part.lower() in refusal.lower():
            return advice
    return "change the template, or the rule of the namespace that refuses it"
