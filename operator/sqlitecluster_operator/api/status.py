"""The status of a SQLiteCluster: what the operator saw. All of it is the operator's."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sqlitecluster_operator.api.base import Int32, Int64, Model, Time
from sqlitecluster_operator.api.pods import Atomic, ListMapByName

HISTORY_MAX = 5
HANDLED_MAX = 20
"""Of requests with an id: those that were replaced by so many others may come again."""


class Condition(Model):
    """One aspect of the cluster's state."""

    type: Annotated[str, Field(max_length=316)]
    """Which aspect, such as Ready."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, Field(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=1024)]
    """Why, as one word that stays the same over versions."""
    message: Annotated[str, Field(max_length=32768)]
    """Why, and what to do, for people."""
    last_transition_time: Time
    """When the condition's status changed last."""
    observed_generation: Int64 | None = None
    """Generation of the object that this is about."""


class Handoff(Model):
    """One planned change of the primary."""

    id: Annotated[str, Field(max_length=253)]
    """Value of the annotation sqlitecluster.dev/handoff-id, else derived from the request. The same id runs once."""
    kind: Literal["handoff", "demote"] | None = None
    """handoff: to a named or any pod. demote: away from the primary, which stays ineligible for a while."""
    from_: Annotated[str, Field(max_length=253)] | None = None
    """Pod that was the primary."""
    to: Annotated[str, Field(max_length=253)] | None = None
    """Pod that should become the primary; "*" is the best one."""
    requested_by: Annotated[str, Field(max_length=1024)] | None = None
    """Who asked, as far as it is known."""
    requested_at: Time | None = None
    """When the operator saw the request."""
    started_at: Time | None = None
    """When the primary began to drain."""
    completed_at: Time | None = None
    """When it ended, well or not."""
    phase: Literal["Requested", "Draining", "Transferring", "Completed", "Failed"] | None = None
    """How far it is."""
    duration_millis: Int64 | None = None
    """Milliseconds from start to end."""
    write_gap_millis: Int64 | None = None
    """Milliseconds during which no pod accepted writes."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """What happened, for people."""


class Promotion(Model):
    """Somebody accepted a loss of data, so that an instance could lead again."""

    id: Annotated[str, Field(max_length=253)]
    """Value of the annotation sqlitecluster.dev/promote-id, else the request itself. The same id is used once."""
    to: Annotated[str, Field(max_length=253)] | None = None
    """Pod that may take over with what it has; "*" is any."""
    requested_by: Annotated[str, Field(max_length=1024)] | None = None
    """Who asked, as far as it is known."""
    requested_at: Time | None = None
    """When the operator saw the request."""
    completed_at: Time | None = None
    """When it ended, well or not."""
    phase: Literal["Requested", "Completed", "Failed"] | None = None
    """How far it is."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """What happened, for people."""


class InstanceStatus(Model):
    """One pod."""

    name: Annotated[str, Field(max_length=253)]
    """Name of the pod."""
    role: Literal["primary", "replica", "unknown"] = "unknown"
    """Role of the pod."""
    ready: bool = False
    """Whether the pod serves."""
    standby: bool | None = None
    """Whether the program is held back here (runOn: Primary). Counts as ready."""
    fenced: bool | None = None
    """Whether spec.fence names the pod."""
    candidate: bool | None = None
    """Whether the pod may become the primary."""
    connected: bool | None = None
    """Whether the replica receives the primary's transactions."""
    lag_seconds: float | None = None
    """How far the replica is behind."""
    epoch: Int64 | None = None
    """Epoch that the pod knows."""
    version: Annotated[str, Field(max_length=128)] | None = None
    """Version of the sidecar."""
    node: Annotated[str, Field(max_length=253)] | None = None
    """Node on which the pod runs."""
    zone: Annotated[str, Field(max_length=253)] | None = None
    """Zone of that node: its label that spec.replication.spread names, else topology.kubernetes.io/zone."""
    pod_ip: Annotated[str, Field(max_length=64)] | None = None
    """Address of the pod."""
    sidecar_restarts: Int32 | None = None
    """How often kubelet restarted the sidecar."""
    message: Annotated[str, Field(max_length=1024)] | None = None
    """What is wrong with the pod, for people."""


class SQLiteClusterStatus(Model):
    """What the operator saw last."""

    observed_generation: Int64 | None = None
    """Generation of the spec that was acted on."""
    conditions: Annotated[
        list[Condition],
        Field(
            max_length=32,
            json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
        ),
    ] = Field(default_factory=list)
    """State of the cluster. Ready sums it up; the others say why."""
    current_primary: Annotated[str, Field(max_length=253)] | None = None
    """Pod that holds the Lease."""
    target_primary: Annotated[str, Field(max_length=253)] | None = None
    """Pod that should hold it; differs during a hand-off, and is absent until a target was chosen."""
    current_primary_since: Time | None = None
    """Since when."""
    instances: Int32 | None = None
    """Number of pods that exist."""
    ready_instances: Int32 | None = None
    """Number of pods that serve or stand by."""
    ready: Annotated[str, Field(max_length=16)] | None = None
    """Ready and wanted pods, such as 2/3."""
    epoch: Int64 | None = None
    """Rises by at least one whenever a pod becomes the primary."""
    cluster_id: Annotated[str, Field(max_length=64)] | None = None
    """Identity of the data: an instance with another one is not let in."""
    selector: Annotated[str, Field(max_length=1024)] | None = None
    """Label selector of the pods, for autoscalers."""
    instances_status: Annotated[list[InstanceStatus], Field(max_length=64, json_schema_extra=ListMapByName)] = Field(
        default_factory=list
    )
    """Each pod."""
    handoff: Handoff | None = None
    """The planned change of the primary that runs, or the last one."""
    history: Annotated[list[Handoff], Field(max_length=HISTORY_MAX, json_schema_extra=Atomic)] = Field(
        default_factory=list
    )
    """Planned changes of the primary that ended, newest first."""
    handled_requests: Annotated[
        list[Annotated[str, Field(max_length=256)]], Field(max_length=HANDLED_MAX, json_schema_extra=Atomic)
    ] = Field(default_factory=list)
    """Requests of users that were dealt with, newest first: each is done once while its annotations stay the same."""
    promotion: Promotion | None = None
    """The last time that somebody accepted a loss of data (annotation sqlitecluster.dev/promote)."""
