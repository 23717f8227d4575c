"""The local Kubernetes cluster for a run of the tests: started before the first lane that needs it.

It is ended after the last such lane, but only when this run started it. A machine that
cannot have one makes those lanes "could not start"; they say why themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from runner.plan import Job


class Startable(Protocol):
    """What is needed of a cluster."""

    def is_up(self) -> bool: ...

    def up(self) -> None: ...

    def down(self) -> None: ...


class SharedCluster:
    """Keeps one cluster up while some of the remaining jobs need it."""

    def __init__(self, make: Callable[[], Startable], say: Callable[[str], None]) -> None:
        self._make = make
        self._say = say
        self._started: Startable | None = None
        self._looked = False

    def before(self, job: Job) -> None:
        """Start it when this job is the first that needs it."""
        if not job.cluster or self._looked:
            return
        self._looked = True
        found = self._make()
        if found.is_up():
            return
        self._started = found
        try:
            found.up()
        except Exception as error:  # the lane will say the same, as its own result
            self._say(f"the local cluster did not start: {error}")

    def after(self, remaining: Sequence[Job]) -> None:
        """End what this run started, when nobody needs it any more."""
        if self._started is not None and not any(job.cluster for job in remaining):
            found, self._started = self._started, None
            found.down()


def local_cluster() -> Startable:
    """The cluster below .cluster; imported only when it is needed."""
    from support import kube

    return kube.cluster_object()
