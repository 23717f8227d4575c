"""The spec of a SQLiteCluster: what a user asks for, with the defaults that make a short object work."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from sqlitecluster_operator.api.base import (
    DatabaseName,
    Duration,
    Int32,
    Label,
    Model,
    Quantity,
    Rule,
    duration_seconds,
    quantity_value,
)
from sqlitecluster_operator.api.bootstrap import Bootstrap
from sqlitecluster_operator.api.pods import (
    AnyObject,
    Atomic,
    Labels,
    ListMapByName,
    PodTemplate,
    Resources,
    Services,
    Set,
    TopologySpreadConstraint,
)
from sqlitecluster_operator.api.primary import Primary
from sqlitecluster_operator.api.replication import SPEC_RULES, Replication

SYSTEM_FOLDERS: Final = frozenset(
    {"/bin", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var", "/var/run", "/tmp"}
)

FencedPod = Annotated[str, Field(pattern=r"^(\*|[a-z]([-a-z0-9]*[a-z0-9])?-(0|[1-9][0-9]*))$", max_length=63)]


def _seconds_between(low: str, high: str, field: str, attribute: str) -> Rule:
    """A rule that a duration lies between two others."""
    return Rule(
        cel=f"duration(self.{field}) >= duration('{low}') && duration(self.{field}) <= duration('{high}')",
        message=f"{field} must be between {low} and {high}",
        field=field,
        check=lambda self, _: (
            duration_seconds(low) <= duration_seconds(getattr(self, attribute)) <= duration_seconds(high)
        ),
    )


class Mount(Model):
    """Where programs find their databases."""

    path: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", max_length=255)] = "/data"
    """Folder in the containers in which programs open their databases, such as /data/app.db. Cannot be changed."""
    containers: Annotated[list[Label], Field(max_length=16, json_schema_extra=Set)] = Field(default_factory=list)
    """Names of the containers that see the folder. Empty: all of them, init containers too."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.path == oldSelf.path",
            message="the mount path cannot be changed: running programs have it open; make a new cluster",
            field="path",
            check=lambda self, old: old is None or self.path == old.path,
        ),
        Rule(
            cel="!(self.path in ['/bin', '/dev', '/etc', '/lib', '/lib64', '/proc', '/run', '/sbin', '/sys', '/usr', "
            "'/var', '/var/run', '/tmp'])",
            message="the mount path would hide a folder that programs need; choose one of its own, such as /data",
            field="path",
            check=lambda self, _: self.path not in SYSTEM_FOLDERS,
        ),
    )


class Database(Model):
    """A database that exists from the start."""

    name: DatabaseName
    """Path of the database below spec.mount.path, such as app.db or tenants/a.db."""
    journal_mode: Literal["WAL", "DELETE"] = "WAL"
    """Journal mode with which the database is made. Programs may change it later."""
    page_size: Literal[512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] = 4096
    """Page size in bytes with which the database is made."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="!self.name.matches('-(journal|wal|shm|pos|lock)$')",
            message="names that end in -journal, -wal, -shm, -pos or -lock belong to SQLite and to the mount",
            field="name",
            check=lambda self, _: not self.name.endswith(("-journal", "-wal", "-shm", "-pos", "-lock")),
        ),
    )


class Retention(Model):
    """How long transactions are kept on each instance."""

    ltx: Duration = "10m"
    """Age up to which transactions are kept, so that a replica that was away catches up without a snapshot."""
    max_bytes: Quantity | None = None
    """Size of one database's kept transactions beyond which the oldest go first. Unset: a fifth of the volume."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="duration(self.ltx) >= duration('1m')",
            message="ltx must be at least 1m",
            field="ltx",
            check=lambda self, _: duration_seconds(self.ltx) >= 60,
        ),
        Rule(
            cel="!has(self.maxBytes) || quantity(self.maxBytes).compareTo(quantity('16Mi')) >= 0",
            message="maxBytes must be at least 16Mi",
            field="maxBytes",
            check=lambda self, _: self.max_bytes is None or quantity_value(self.max_bytes) >= 16 << 20,
        ),
    )


class VolumeRetain(Model):
    """What happens to volumes that are no longer used."""

    when_deleted: Literal["Retain", "Delete"] = "Retain"
    """After the SQLiteCluster is deleted: keep the volumes and their data, or delete them."""
    when_scaled: Literal["Retain", "Delete"] = "Retain"
    """After spec.instances is lowered: keep the volumes of the removed instances, or delete them."""


class Storage(Model):
    """The volume of each instance."""

    size: Quantity
    """Size of each instance's volume, such as 1Gi. May grow if the storage class allows it; never shrinks."""
    storage_class: Annotated[str, Field(max_length=253)] | None = None
    """Storage class of the volumes. Unset: the default of the Kubernetes cluster. Cannot be changed."""
    retain: VolumeRetain = Field(default_factory=VolumeRetain)
    """What happens to volumes that are no longer used."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="quantity(self.size).compareTo(quantity('64Mi')) >= 0",
            message="size must be at least 64Mi",
            field="size",
            check=lambda self, _: quantity_value(self.size) >= 64 << 20,
        ),
        Rule(
            cel="quantity(self.size).compareTo(quantity(oldSelf.size)) >= 0",
            message="a volume cannot shrink; size may only grow",
            field="size",
            check=lambda self, old: old is None or quantity_value(self.size) >= quantity_value(old.size),
        ),
        Rule(
            cel="has(self.storageClass) == has(oldSelf.storageClass) && "
            "(!has(self.storageClass) || self.storageClass == oldSelf.storageClass)",
            message="the storage class of existing volumes cannot be changed; make a new cluster and import into it",
            field="storageClass",
            check=lambda self, old: old is None or self.storage_class == old.storage_class,
        ),
    )


class UpdateStrategy(Model):
    """How a change of the spec reaches running pods."""

    type: Literal["ReplicasFirstPrimaryLast", "OnDelete", "Never"] = "ReplicasFirstPrimaryLast"
    """ReplicasFirstPrimaryLast: replicas one by one, then a hand-off, then the old primary. OnDelete: a pod is new when
    somebody deletes it. Never: the running pods' description stays as it is."""
    primary: Literal["Handoff", "Restart", "Supervised"] = "Handoff"
    """What happens to the primary at the end: Handoff moves it to an updated replica first, Restart replaces it in
    place, Supervised waits until somebody hands off."""


class TLS(Model):
    """Certificates for replication, which always is mutual TLS 1.3."""

    certificate_lifetime: Duration = "168h"
    """How long the certificate of a pod is valid. It is renewed after two sevenths of that."""
    ca_lifetime: Duration = "87600h"
    """How long the cluster's certificate authority is valid. It is replaced, with overlap, before that."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        _seconds_between("60s", "8760h", "certificateLifetime", "certificate_lifetime"),
        Rule(
            cel="duration(self.caLifetime) >= duration(self.certificateLifetime) + duration(self.certificateLifetime)",
            message="caLifetime must be at least twice certificateLifetime",
            field="caLifetime",
            check=lambda self, _: duration_seconds(self.ca_lifetime) >= 2 * duration_seconds(self.certificate_lifetime),
        ),
    )


class Sidecar(Model):
    """The container that the operator adds to each pod."""

    image: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    """Image of the sidecar. Unset: the one that belongs to the operator's version."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled. Unset: what the operator was told."""
    resources: Resources | None = None
    """CPU and memory of the sidecar. Unset: requests of 100m and 256Mi, limits of 2 and 512Mi."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """How much the sidecar logs."""


class Monitoring(Model):
    """Metrics for the Prometheus operator."""

    enabled: bool = False
    """Whether a PodMonitor is made. Needs the Prometheus operator; metrics are at port 20203 in any case."""
    labels: Labels | None = None
    """Labels of the PodMonitor, by which Prometheus selects it."""
    interval: Duration = "30s"
    """Time between two scrapes."""

    RULES: ClassVar[tuple[Rule, ...]] = (_seconds_between("1s", "1h", "interval", "interval"),)


def _containers_exist(spec: Any) -> bool:
    if spec.template is None:
        return not spec.mount.containers
    pod = spec.template.spec
    known = {c.name for c in [*pod.containers, *(pod.init_containers or [])]}
    return set(spec.mount.containers) <= known


def _path_is_free(spec: Any) -> bool:
    if spec.template is None:
        return True
    pod = spec.template.spec
    mounts = [m for c in [*pod.containers, *(pod.init_containers or [])] for m in c.volume_mounts or []]
    return all(m.mount_path != spec.mount.path and not m.mount_path.startswith(spec.mount.path + "/") for m in mounts)


def _may_not_appear(attribute: str) -> Any:
    return lambda self, old: old is None or (getattr(self, attribute) is None) == (getattr(old, attribute) is None)


class SQLiteClusterSpec(Model):
    """What the cluster should be."""

    instances: Annotated[Int32, Field(ge=1, le=64)] = 1
    """Number of pods: one primary, the others are replicas. Three survive the loss of any one node."""
    template: PodTemplate | None = None
    """The program: a pod template as in a Deployment. Unset: the sidecar runs alone."""
    run_on: Literal["All", "Primary"] = "All"
    """Where the program runs: All, or Primary for programs that write when they start; replicas then stand by."""
    mount: Mount = Field(default_factory=Mount)
    """Where programs find their databases."""
    databases: Annotated[list[Database], Field(max_length=256, json_schema_extra=ListMapByName)] = Field(
        default_factory=list
    )
    """Databases that a new cluster starts with, empty. Any other that a program makes is replicated too. Cannot be
    changed afterwards."""
    bootstrap: Bootstrap | None = None
    """What a new cluster starts with. Unset: empty. Cannot be changed afterwards."""
    replication: Replication = Field(default_factory=Replication)
    """How transactions travel to the replicas, and when a commit is answered."""
    primary: Primary = Field(default_factory=Primary)
    """How the primary is chosen and replaced."""
    replica_writes: Literal["Busy", "ReadOnly"] = "Busy"
    """What a program on a replica gets when it writes. Busy: "database is locked", and the open connection works after
    a promotion. ReadOnly: "attempt to write a readonly database" at once; it must reopen after a promotion."""
    retention: Retention = Field(default_factory=Retention)
    """How long transactions are kept on each instance."""
    storage: Storage
    """The volume of each instance."""
    update_strategy: UpdateStrategy = Field(default_factory=UpdateStrategy)
    """How a change of the spec reaches running pods."""
    disruption_budget: Literal["Auto", "Disabled"] = "Auto"
    """Auto: a PodDisruptionBudget lets one pod at a time be evicted. None is made for a single instance, and none with
    runOn: Primary, as replicas that stand by are not ready: the primary, which hands over when it is evicted, could
    never be."""
    topology_spread: Annotated[list[TopologySpreadConstraint], Field(max_length=8, json_schema_extra=Atomic)] | None = (
        None
    )
    """How pods are spread over failure domains. Unset: over zones and nodes, as far as possible. []: not at all."""
    affinity: AnyObject | None = None
    """Node and pod affinity of the pods, as in any pod."""
    services: Services = Field(default_factory=Services)
    """Services in front of the pods."""
    tls: TLS = Field(default_factory=TLS)
    """Certificates for replication."""
    sidecar: Sidecar = Field(default_factory=Sidecar)
    """The container that the operator adds to each pod."""
    monitoring: Monitoring = Field(default_factory=Monitoring)
    """Metrics for the Prometheus operator."""
    fence: Annotated[list[FencedPod], Field(max_length=64, json_schema_extra=Set)] = Field(default_factory=list)
    """Names of pods that must not write, lead nor serve, such as notes-1; "*" is all. For looking into trouble: the
    program keeps running. Fencing the primary does not fail over: writes stop until the fence is lifted."""
    hibernate: bool = False
    """true: all pods are removed after the replicas have everything; volumes stay. false: they come back."""
    suspend: bool = False
    """true: the operator changes nothing of this cluster. Election, hand-off at shutdown and replication go on."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="size(self.mount.containers) == 0 || has(self.template) && self.mount.containers.all(n, "
            "self.template.spec.containers.exists(c, c.name == n) || has(self.template.spec.initContainers) && "
            "self.template.spec.initContainers.exists(c, c.name == n))",
            message="mount.containers names a container that the template does not have",
            field="mount",
            check=lambda self, _: _containers_exist(self),
        ),
        Rule(
            cel="!has(self.template) || self.template.spec.containers.all(c, !has(c.volumeMounts) || "
            "c.volumeMounts.all(m, m.mountPath != self.mount.path && "
            "!m.mountPath.startsWith(self.mount.path + '/'))) && (!has(self.template.spec.initContainers) || "
            "self.template.spec.initContainers.all(c, !has(c.volumeMounts) || c.volumeMounts.all(m, "
            "m.mountPath != self.mount.path && !m.mountPath.startsWith(self.mount.path + '/'))))",
            message="a container mounts a volume at mount.path, where its databases are; remove that volumeMount",
            field="template",
            check=lambda self, _: _path_is_free(self),
        ),
        Rule(
            cel="self.runOn == 'All' || has(self.template)",
            message="runOn: Primary needs a template: without a program there is nothing to hold back",
            field="runOn",
            check=lambda self, _: self.run_on == "All" or self.template is not None,
        ),
        Rule(
            cel="!has(self.affinity) || !has(self.template) || !has(self.template.spec.affinity)",
            message="affinity is set here and in template.spec.affinity; keep one of them",
            field="affinity",
            check=lambda self, _: self.affinity is None or self.template is None or self.template.spec.affinity is None,
        ),
        Rule(
            cel="has(self.bootstrap) == has(oldSelf.bootstrap)",
            message="bootstrap is used once, when the cluster is made; it cannot be added or removed later",
            field="bootstrap",
            check=_may_not_appear("bootstrap"),
        ),
        Rule(
            cel="self.databases == oldSelf.databases",
            message="databases are made once, with the cluster; a program makes further ones by opening them",
            field="databases",
            check=lambda self, old: old is None or self.databases == old.databases,
        ),
        Rule(
            cel="!(self.hibernate && self.suspend)",
            message="a suspended cluster cannot hibernate or wake up: set suspend to false first",
            field="hibernate",
            check=lambda self, _: not (self.hibernate and self.suspend),
        ),
        *SPEC_RULES,
    )
