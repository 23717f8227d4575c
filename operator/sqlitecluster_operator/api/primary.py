"""``spec.primary``: how the primary is chosen and replaced."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from sqlitecluster_operator.api.base import Duration, Int32, Model, Rule, duration_seconds
from sqlitecluster_operator.api.pods import LabelSelector


class LeaseTimes(Model):
    """Times of the Kubernetes Lease, named like the cluster, whose holder is the primary."""

    lease_duration_seconds: Annotated[Int32, Field(ge=2, le=600)] = 12
    """A replica may take over when the Lease did not change for so long."""
    renew_deadline_seconds: Annotated[Int32, Field(ge=1, le=600)] = 7
    """So long after its last good renewal the primary refuses writes by itself."""
    retry_period_seconds: Annotated[Int32, Field(ge=1, le=60)] = 1
    """Time between two renewals."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.leaseDurationSeconds > self.renewDeadlineSeconds",
            message="leaseDurationSeconds must be more than renewDeadlineSeconds: "
            "the old primary must have stopped before a new one starts",
            field="leaseDurationSeconds",
            check=lambda self, _: self.lease_duration_seconds > self.renew_deadline_seconds,
        ),
    )


class Fence(Model):
    """Safety between the old primary's last write and the new primary's first."""

    margin_millis: Annotated[Int32, Field(ge=0, le=60000)] = 1000
    """Milliseconds added for clocks that run at different speeds."""


class Candidates(Model):
    """Which pods may become the primary."""

    selector: LabelSelector | None = None
    """Labels of pods, such as apps.kubernetes.io/pod-index in ["0", "1"]. Unset: all."""
    node_selector: LabelSelector | None = None
    """Labels of the nodes on which a primary may run, such as topology.kubernetes.io/zone. Unset: all."""


def _at_most(field: str, attribute: str, low: str, high: str) -> Rule:
    return Rule(
        cel=f"duration(self.{field}) >= duration('{low}') && duration(self.{field}) <= duration('{high}')",
        message=f"{field} must be between {low} and {high}",
        field=field,
        check=lambda self, _: (
            duration_seconds(low) <= duration_seconds(getattr(self, attribute)) <= duration_seconds(high)
        ),
    )


class Primary(Model):
    """How the primary is chosen and replaced."""

    lease: LeaseTimes = Field(default_factory=LeaseTimes)
    """Times of the Lease whose holder is the primary."""
    fence: Fence = Field(default_factory=Fence)
    """Safety between the old primary's last write and the new primary's first."""
    candidates: Candidates | None = None
    """Which pods may become the primary. Unset: all."""
    api_outage_policy: Literal["Fence", "HoldIfPeersAgree"] = "Fence"
    """What the primary does without an API server. Fence: it stops writing before its lease ends. HoldIfPeersAgree: it
    goes on while every other candidate promises it not to take over."""
    switchover_timeout: Duration = "60s"
    """A hand-off that takes longer is given up, and the old primary goes on."""
    demote_delay: Duration = "10s"
    """Two times in one. When a primary becomes a replica, running transactions may go on for so long; then they are cut
    off. And a pod that was demoted by annotation may not lead for so long."""
    failover_delay: Duration = "0s"
    """How long an unreachable primary is waited for, beyond its lease, before a replica takes over."""

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            cel="self.fence.marginMillis < (self.lease.leaseDurationSeconds - self.lease.renewDeadlineSeconds) * 1000",
            message="fence.marginMillis must be less than the time between lease.renewDeadlineSeconds and "
            "lease.leaseDurationSeconds",
            field="fence",
            check=lambda self, _: (
                self.fence.margin_millis
                < (self.lease.lease_duration_seconds - self.lease.renew_deadline_seconds) * 1000
            ),
        ),
        Rule(  # the sidecar does not start with other times: ElectorSettings.problem
            cel="self.lease.renewDeadlineSeconds * 1000 - self.fence.marginMillis >= "
            "self.lease.retryPeriodSeconds * 2000",
            message="lease.renewDeadlineSeconds less fence.marginMillis must be at least twice "
            "lease.retryPeriodSeconds: a renewal must be retried",
            field="lease",
            check=lambda self, _: (
                self.lease.renew_deadline_seconds * 1000 - self.fence.margin_millis
                >= self.lease.retry_period_seconds * 2000
            ),
        ),
        _at_most("switchoverTimeout", "switchover_timeout", "1s", "1h"),
        _at_most("demoteDelay", "demote_delay", "0s", "1h"),
        _at_most("failoverDelay", "failover_delay", "0s", "24h"),
    )
