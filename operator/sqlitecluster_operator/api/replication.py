"""``spec.replication``: how transactions travel to the replicas, and when a commit is answered."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from sqlitecluster_operator.api.base import Duration, Int32, Model, Rule, duration_seconds

LabelKey = Annotated[
    str,
    Field(
        pattern=r"^(([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
        r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$",
        max_length=317,
    ),
]
"""A Kubernetes label key, or nothing."""


class Replication(Model):
    """How transactions travel to the replicas, and when a commit is answered."""

    mode: Literal["Async", "Quorum"] = "Async"
    """When a commit is answered. Async: when the primary has it. Quorum: when the primary and acks replicas have it
    on disk."""
    acks: Annotated[Int32, Field(ge=1, le=63)] = 1
    """With Quorum: how many replicas must have a commit on disk before it is answered. Less than spec.instances."""
    ack_timeout: Duration = "5s"
    """With Quorum: a commit that was not acknowledged by then fails with "disk I/O error" and is taken back."""
    durability: Literal["Required", "Preferred"] = "Required"
    """With Quorum and too few replicas. Required: commits fail. Preferred: they go on with fewer acknowledgements,
    which the condition DurabilityDegraded reports."""
    local_durability: Literal["SQLite", "Always"] = "SQLite"
    """What a power cut of the primary may take of its disk. SQLite: what the program's "synchronous" says. Always:
    nothing that was answered."""
    spread: LabelKey | None = None
    """With Quorum: label of nodes, such as topology.kubernetes.io/zone. Of the replicas on nodes with the same value
    one acknowledgement counts, and none of those with the primary's value. Unset or "": all count."""
    checkpoint_pages: Annotated[Int32, Field(ge=100, le=1000000)] = 1000
    """A write-ahead log with more pages than this is written back into its database: on replicas always, on the
    primary where the program's own checkpoints do not do it."""
    compression: Literal["None", "LZ4"] = "LZ4"
    """Compression of new transactions, on the network and on disk. None: less work for each commit, more bytes."""
    max_lag: Duration | None = None
    """A replica that is further behind is not ready and leaves the -ro and -r Services. Unset: any lag is fine."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.mode == 'Quorum' || self.acks == 1",
            message="more than one of acks needs mode: Quorum; with Async a commit waits for no replica",
            field="acks",
            check=lambda self, _: self.is_quorum or self.acks == 1,
        ),
        Rule(
            cel="self.mode == 'Quorum' || self.durability == 'Required'",
            message="durability: Preferred needs mode: Quorum; with Async a commit waits for no replica",
            field="durability",
            check=lambda self, _: self.is_quorum or self.durability == "Required",
        ),
        Rule(
            cel="self.mode == 'Quorum' || !has(self.spread) || self.spread == ''",
            message="spread needs mode: Quorum; to spread pods alone, use spec.topologySpread",
            field="spread",
            check=lambda self, _: self.is_quorum or not self.spread,
        ),
        Rule(
            cel="duration(self.ackTimeout) >= duration('1s') && duration(self.ackTimeout) <= duration('30s')",
            message="ackTimeout must be between 1s and 30s",
            field="ackTimeout",
            check=lambda self, _: 1 <= duration_seconds(self.ack_timeout) <= 30,
        ),
        Rule(
            cel="!has(self.maxLag) || duration(self.maxLag) > duration('0s')",
            message="maxLag must be more than 0s; leave it out for no limit",
            field="maxLag",
            check=lambda self, _: self.max_lag is None or duration_seconds(self.max_lag) > 0,
        ),
    )

    @property
    def is_quorum(self) -> bool:
        """Whether a commit waits for replicas."""
        return self.mode == "Quorum"


def _ends_in_time(spec: Any) -> bool:
    grace = spec.template.spec.termination_grace_period_seconds if spec.template else None
    return grace is None or not spec.replication.is_quorum or duration_seconds(spec.replication.ack_timeout) < grace


SPEC_RULES: tuple[Rule, ...] = (
    Rule(
        cel="self.replication.mode != 'Quorum' || self.replication.acks < self.instances",
        message="mode: Quorum needs acks to be less than instances: only replicas acknowledge",
        field="replication.acks",
        check=lambda self, _: not self.replication.is_quorum or self.replication.acks < self.instances,
    ),
    Rule(
        cel="self.replication.mode != 'Quorum' || !has(self.template) || "
        "!has(self.template.spec.terminationGracePeriodSeconds) || "
        "duration(self.replication.ackTimeout).getSeconds() < self.template.spec.terminationGracePeriodSeconds",
        message="ackTimeout must be less than the template's terminationGracePeriodSeconds: "
        "the last commits of a pod that ends wait so long",
        field="replication.ackTimeout",
        check=lambda self, _: _ends_in_time(self),
    ),
)
"""Rules about replication and its surroundings: of the spec."""
