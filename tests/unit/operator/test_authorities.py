"""A certificate authority that is not in order is told and tried again, and stops nothing else."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from sqlitecluster_operator.identity import calls
from sqlitecluster_operator.identity.secrets import Ensured, NotOurs
from sqlitecluster_operator.identity.service import IdentityService
from sqlitecluster_operator.reconcile.actions import Apply, Memory, Plan
from sqlitecluster_operator.reconcile.case import Disorder
from sqlitecluster_operator.runtime import kinds
from sqlitecluster_operator.runtime.api import Forbidden
from sqlitecluster_operator.runtime.controller import CERTIFICATES_AGAIN_S, _next_look
from sqlitecluster_operator.runtime.executor import Outcome
from sqlitecluster_operator.runtime.identities import RETRY_S, RETRY_SOON_S, Authorities
from sqlitecluster_operator.runtime.store import Key, Store
from support.kubeobjects import FakeCalls
from support.operator_cases import case, cluster, condition, decide

KEY = Key("shop", "notes")
GOOD = Ensured(dt.datetime(2027, 1, 1, tzinfo=dt.UTC), False, dt.timedelta(days=1), False)


class Service:
    """Fails as it is told; counts how often it is asked."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.asked = 0

    async def ensure(self, body: dict[str, Any]) -> Ensured:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return GOOD


class Scene:
    """One cluster, with or without a trust bundle."""

    def __init__(self, *, trusted: bool = True) -> None:
        self.now, self.service, store = 100.0, Service(), Store()
        if trusted:
            meta = {"name": "notes-trust", "namespace": "shop", "labels": {"sqlitecluster.dev/cluster": "notes"}}
            store.observe(kinds.CONFIG_MAP, {"metadata": {**meta, "uid": "u", "resourceVersion": "3"}})
        self._authorities = Authorities(self.service, store, lambda: self.now)

    def look(self) -> str:
        problem = asyncio.run(self._authorities.ensure(KEY, cluster()))
        return problem.text if problem is not None else ""


ERRORS: dict[str, Callable[[str], Exception]] = {
    "a Secret that others keep changing": calls.Conflict,
    "an API server that answers 500, or no authority of the operator": calls.Unreachable,
    "a Secret that may not be read": Forbidden,
    "a damaged Secret": ValueError,
    "another one's Secret": NotOurs,
}


@pytest.mark.parametrize("what", ERRORS)
@pytest.mark.parametrize("trusted", [True, False])
def test_what_is_wrong_is_told_and_tried_again(what: str, trusted: bool) -> None:
    scene = Scene(trusted=trusted)
    scene.service.error = ERRORS[what]("the reason")

    assert [scene.look(), scene.look()] == ["the reason", "the reason"]
    assert scene.service.asked == 1, "not at each look"
    scene.service.error = None
    scene.now += RETRY_S
    assert scene.look() == ""


def test_pods_that_cannot_start_wait_less_long() -> None:
    scene = Scene(trusted=False)
    scene.service.error = calls.Unreachable("not known yet")
    scene.look()
    scene.now += RETRY_SOON_S
    scene.look()

    assert scene.service.asked == 2


def test_the_rest_of_a_cluster_is_looked_after_all_the_same() -> None:
    made = decide(certificates=Disorder("the reason"))
    new = decide(cluster({"instances": 4}), replicas=3, certificates=Disorder("the reason"))

    assert made.actions == ()
    assert condition(made)["reason"] == "ClusterHealthy"
    valid = condition(made, "CertificatesValid")
    assert (valid["status"], valid["message"]) == ("False", "the reason")
    assert [one for one in new.actions if isinstance(one, Apply)]


def test_the_next_look_comes_in_time_to_try_again() -> None:
    made = Plan((), None, (), Memory(), look_again_s=30.0)

    assert _next_look(case(certificates=Disorder("the reason")), made, Outcome({}, {})) == CERTIFICATES_AGAIN_S
    assert _next_look(case(), made, Outcome({}, {})) == 30.0


def test_an_operator_listens_when_pods_can_be_served() -> None:
    async def drive() -> list[bool]:
        service = IdentityService(FakeCalls(), "system", "https://operator.system.svc:8443")
        seen = [service.listening]
        await service.start("127.0.0.1", 0)
        seen.append(service.listening)
        await service.stop()
        return [*seen, service.listening]

    assert asyncio.run(drive()) == [False, True, False]
