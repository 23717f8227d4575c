"""Parts of the spec that shape pods and Services: template, placement, Services, resources."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import Field

from sqlitecluster_operator.api.base import Int32, Int64, Label, Model, OpenModel, Quantity, Rule

SIDECAR_CONTAINER: Final = "sqlite-sidecar"
RESERVED_CONTAINERS: Final = (SIDECAR_CONTAINER, "sqlite-guard", "sqlite-bootstrap")
RESERVED_VOLUMES: Final = ("data", "identity", "kube-api")
RESERVED_PREFIX: Final = "sqlite-"
RESERVED_PORTS: Final = (20202, 20203, 20204)

Labels = Annotated[dict[str, Annotated[str, Field(max_length=63)]], Field(max_length=64)]
Annotations = Annotated[dict[str, str], Field(max_length=64)]
ListMapByName: Final[dict[str, Any]] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
Atomic: Final[dict[str, Any]] = {"x-kubernetes-list-type": "atomic"}
AtomicMap: Final[dict[str, Any]] = {"x-kubernetes-map-type": "atomic"}
Set: Final[dict[str, Any]] = {"x-kubernetes-list-type": "set"}
AnyObject = Annotated[dict[str, Any], Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True})]


class ContainerPort(OpenModel):
    """One port of a container."""

    name: Annotated[str, Field(max_length=15)] | None = None
    """Name of the port. The cluster's Services offer the ports that have a name."""
    container_port: Annotated[Int32, Field(ge=1, le=65535)]
    """Number of the port. 20202, 20203 and 20204 belong to the sidecar."""


class VolumeMount(OpenModel):
    """Where a container sees a volume."""

    name: Annotated[str, Field(max_length=63)]
    """Name of a volume of the pod."""
    mount_path: Annotated[str, Field(max_length=1024)]
    """Path in the container. The databases' own path, spec.mount.path, is mounted by the operator."""


class Container(OpenModel):
    """A container of the program; any field of a Kubernetes container may be set."""

    name: Label
    """Name of the container, unique in the pod. "sqlite-sidecar" and "sqlite-guard" are the operator's."""
    ports: Annotated[list[ContainerPort], Field(max_length=64, json_schema_extra=Atomic)] | None = None
    """Ports that the container listens on. Those that have a name are offered by the cluster's Services."""
    volume_mounts: Annotated[list[VolumeMount], Field(max_length=64, json_schema_extra=Atomic)] | None = None
    """Further volumes of the container. The databases need no entry: they appear at spec.mount.path."""


class Volume(OpenModel):
    """A volume of the pod; any field of a Kubernetes volume may be set."""

    name: Label
    """Name of the volume. "data", "identity", "kube-api" and names that begin with "sqlite-" are the operator's."""


class PodMetadata(Model):
    """Labels and annotations of every pod."""

    labels: Labels | None = None
    """Labels added to every pod. Those of the operator (sqlitecluster.dev/…, app.kubernetes.io/…) win."""
    annotations: Annotations | None = None
    """Annotations added to every pod."""


class PodSpec(OpenModel):
    """Any field of a Kubernetes pod may be set; the listed ones are checked."""

    containers: Annotated[list[Container], Field(min_length=1, max_length=32, json_schema_extra=ListMapByName)]
    """The program's containers, as in any pod. Each sees the databases at spec.mount.path."""
    init_containers: Annotated[list[Container], Field(max_length=32, json_schema_extra=ListMapByName)] | None = None
    """Containers that run before the program. They start after the sidecar and see the databases too."""
    volumes: Annotated[list[Volume], Field(max_length=64, json_schema_extra=ListMapByName)] | None = None
    """Further volumes of the pod."""
    restart_policy: Literal["Always"] | None = None
    """Only "Always": pods of a cluster run until they are replaced."""
    service_account_name: Annotated[str, Field(max_length=253)] | None = None
    """Must not be set: pods run as the ServiceAccount that the operator makes, named like the cluster."""
    affinity: AnyObject | None = None
    """Node and pod affinity; may be set here or in spec.affinity, not in both."""
    termination_grace_period_seconds: Annotated[Int64, Field(ge=0)] | None = None
    """Seconds that the pod has to end. Unset: spec.primary.switchoverTimeout and 30 s."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.containers.all(c, !(c.name in ['sqlite-sidecar', 'sqlite-guard', 'sqlite-bootstrap'])) && "
            "(!has(self.initContainers) || "
            "self.initContainers.all(c, !(c.name in ['sqlite-sidecar', 'sqlite-guard', 'sqlite-bootstrap'])))",
            message="sqlite-sidecar, sqlite-guard and sqlite-bootstrap are the operator's containers; use another name",
            field="containers",
            check=lambda self, _: all(
                c.name not in RESERVED_CONTAINERS for c in [*self.containers, *(self.init_containers or [])]
            ),
        ),
        Rule(
            cel="!has(self.initContainers) || self.initContainers.all(i, self.containers.all(c, c.name != i.name))",
            message="a container and an init container have the same name; names are unique in a pod",
            field="initContainers",
            check=lambda self, _: not {c.name for c in self.containers} & {c.name for c in self.init_containers or []},
        ),
        Rule(
            cel="!has(self.volumes) || self.volumes.all(v, "
            "!(v.name in ['data', 'identity', 'kube-api']) && !v.name.startsWith('sqlite-'))",
            message="the volume names data, identity, kube-api and sqlite-… are the operator's; choose another name",
            field="volumes",
            check=lambda self, _: all(
                v.name not in RESERVED_VOLUMES and not v.name.startswith(RESERVED_PREFIX) for v in self.volumes or []
            ),
        ),
        Rule(
            cel="self.containers.all(c, !has(c.ports) || c.ports.all(p, !(p.containerPort in [20202, 20203, 20204])))",
            message="the ports 20202, 20203 and 20204 are the sidecar's; let the program listen on another one",
            field="containers",
            check=lambda self, _: all(
                p.container_port not in RESERVED_PORTS for c in self.containers for p in c.ports or []
            ),
        ),
        Rule(
            cel="!has(self.serviceAccountName)",
            message="pods run as the ServiceAccount that is named like the cluster; "
            "bind the program's roles to it instead of setting serviceAccountName",
            field="serviceAccountName",
            check=lambda self, _: self.service_account_name is None,
        ),
    )


class PodTemplate(Model):
    """The pods of the program, as a Deployment would describe them."""

    metadata: PodMetadata | None = None
    """Labels and annotations of every pod."""
    spec: PodSpec
    """The pod: containers, volumes, security context and whatever else a Kubernetes pod may have."""


class SelectorRequirement(Model):
    """One condition of a label selector."""

    key: Annotated[str, Field(max_length=316)]
    """Key of the label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How the label's value is compared with the values."""
    values: Annotated[list[Annotated[str, Field(max_length=63)]], Field(max_length=64, json_schema_extra=Atomic)] = (
        Field(default_factory=list)
    )
    """Values for In and NotIn; empty for Exists and DoesNotExist."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            message="In and NotIn need values; Exists and DoesNotExist take none",
            field="values",
            check=lambda self, _: (self.operator in ("In", "NotIn")) == bool(self.values),
        ),
    )


class LabelSelector(Model):
    """Labels that something must have; all conditions must hold."""

    match_labels: Labels | None = None
    """Labels and their exact values."""
    match_expressions: Annotated[list[SelectorRequirement], Field(max_length=16, json_schema_extra=Atomic)] | None = (
        None
    )
    """Conditions on labels."""


class TopologySpreadConstraint(Model):
    """How evenly pods are spread over one kind of failure domain."""

    topology_key: Annotated[str, Field(min_length=1, max_length=316)]
    """Label of nodes whose value names the domain, such as topology.kubernetes.io/zone."""
    max_skew: Annotated[Int32, Field(ge=1)] = 1
    """By how many pods two domains may differ."""
    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"] = "ScheduleAnyway"
    """Whether a pod that would break this waits (DoNotSchedule) or is placed all the same (ScheduleAnyway)."""
    min_domains: Annotated[Int32, Field(ge=1)] | None = None
    """With DoNotSchedule: at least so many domains must exist."""
    node_affinity_policy: Literal["Honor", "Ignore"] | None = None
    """Whether nodes that the pod's affinity excludes count."""
    node_taints_policy: Literal["Honor", "Ignore"] | None = None
    """Whether nodes that the pod does not tolerate count."""


class ServiceSpec(Model):
    """The part of a Service that may be chosen; selector and ports are the operator's."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """How the Service is reached: inside the cluster, at a port of every node, or through a load balancer."""
    load_balancer_class: Annotated[str, Field(max_length=253)] | None = None
    """Which load balancer is used, with type LoadBalancer."""
    load_balancer_source_ranges: (
        Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=64, json_schema_extra=Atomic)] | None
    ) = None
    """Networks that may use the load balancer, such as 10.0.0.0/8."""
    external_traffic_policy: Literal["Cluster", "Local"] | None = None
    """Whether traffic from outside goes to any pod or only to those on the node it came to."""
    internal_traffic_policy: Literal["Cluster", "Local"] | None = None
    """Whether traffic from inside goes to any pod or only to those on the same node."""
    session_affinity: Literal["None", "ClientIP"] | None = None
    """ClientIP keeps a client at the same pod."""
    ip_family_policy: Literal["SingleStack", "PreferDualStack", "RequireDualStack"] | None = None
    """IPv4, IPv6 or both."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.type == 'LoadBalancer' || !(has(self.loadBalancerClass) || has(self.loadBalancerSourceRanges))",
            message="loadBalancerClass and loadBalancerSourceRanges need type: LoadBalancer",
            field="type",
            check=lambda self, _: (
                self.type == "LoadBalancer"
                or (self.load_balancer_class is None and self.load_balancer_source_ranges is None)
            ),
        ),
        Rule(
            cel="self.type != 'ClusterIP' || !has(self.externalTrafficPolicy)",
            message="externalTrafficPolicy needs type: NodePort or LoadBalancer",
            field="externalTrafficPolicy",
            check=lambda self, _: self.type != "ClusterIP" or self.external_traffic_policy is None,
        ),
    )


class ServiceTemplate(Model):
    """Metadata and type of a Service."""

    metadata: PodMetadata | None = None
    """Labels and annotations of the Service."""
    spec: ServiceSpec = Field(default_factory=ServiceSpec)
    """Type and traffic policies of the Service."""


class Service(Model):
    """One Service of the cluster."""

    enabled: bool = True
    """Whether the Service exists."""
    template: ServiceTemplate | None = None
    """Metadata and type of the Service. Unset: a ClusterIP Service without further labels."""


class Services(Model):
    """Services in front of the pods. They offer the named ports of the template's containers."""

    rw: Service = Field(default_factory=Service)
    """<name>-rw leads to the primary: programs that write. It always exists."""
    ro: Service = Field(default_factory=Service)
    """<name>-ro leads to ready replicas: programs that only read."""
    r: Service = Field(default_factory=Service)
    """<name>-r leads to every ready pod."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.rw.enabled",
            message="the -rw Service cannot be disabled; it is how programs find the primary",
            field="rw",
            check=lambda self, _: self.rw.enabled,
        ),
    )


class Resources(Model):
    """CPU and memory, as for any container."""

    requests: Annotated[dict[str, Quantity], Field(max_length=8)] | None = None
    """What is reserved on the node, such as cpu: 100m and memory: 256Mi."""
    limits: Annotated[dict[str, Quantity], Field(max_length=8)] | None = None
    """What may be used at most. Beyond the memory limit the sidecar is killed and programs see a pause."""
