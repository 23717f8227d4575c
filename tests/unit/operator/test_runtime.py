"""The operator's small machines: queue, election, store, slots, liveness, errors."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import Any

import kubernetes.client
import pytest
from aiohttp.test_utils import make_mocked_request

from sqlitecluster_operator import names
from sqlitecluster_operator.identity.secrets import Ensured, NotOurs
from sqlitecluster_operator.reconcile.case import Disorder
from sqlitecluster_operator.runtime import kinds, watches
from sqlitecluster_operator.runtime.api import Conflict, Forbidden, NotFound, Refused, Unavailable, error_from
from sqlitecluster_operator.runtime.controller import Slots, needs_no_slot, newest_refusal
from sqlitecluster_operator.runtime.health import HealthServer, Liveness, split_address
from sqlitecluster_operator.runtime.identities import Authorities
from sqlitecluster_operator.runtime.leader import Leadership, Step, Times
from sqlitecluster_operator.runtime.queue import Backoff, WorkQueue
from sqlitecluster_operator.runtime.store import Key, Store
from support.operator_cases import case, changed, cluster, pods_of

KEY = Key("shop", "notes")


# -- queue ------------------------------------------------------------------------------


async def run_queue(work: Any, drive: Any) -> None:
    queue: WorkQueue[str] = WorkQueue(work)
    running = asyncio.create_task(queue.run())
    try:
        async with asyncio.timeout(5):
            await drive(queue)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def test_many_events_of_one_cluster_are_one_look_and_one_more() -> None:
    looks, gate = [], asyncio.Event()

    async def work(key: str) -> None:
        looks.append(key)
        await gate.wait()

    async def drive(queue: WorkQueue[str]) -> None:
        queue.add("a")
        await asyncio.sleep(0.01)
        for _ in range(50):
            queue.add("a")
        gate.set()
        await asyncio.sleep(0.05)

    asyncio.run(run_queue(work, drive))
    assert looks == ["a", "a"]


def test_one_cluster_is_looked_at_by_one_worker_at_a_time() -> None:
    active, most = 0, 0

    async def work(_key: str) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.01)
        active -= 1

    async def drive(queue: WorkQueue[str]) -> None:
        for _ in range(10):
            queue.add("a")
            await asyncio.sleep(0.005)

    asyncio.run(run_queue(work, drive))
    assert most == 1


def test_a_failing_cluster_is_tried_again_and_does_not_hold_up_others() -> None:
    looks: list[str] = []

    async def work(key: str) -> None:
        looks.append(key)
        if key == "bad":
            raise Conflict("again")

    async def drive(queue: WorkQueue[str]) -> None:
        queue.add("bad")
        queue.add("good")
        while looks.count("bad") < 3:
            await asyncio.sleep(0.01)

    asyncio.run(run_queue(work, drive))
    assert looks[:2] == ["bad", "good"]


def test_who_comes_further_each_time_does_not_wait_longer_each_time() -> None:
    looks: list[float] = []

    async def work(_key: str) -> None:
        looks.append(asyncio.get_running_loop().time())
        error = Unavailable("away")
        error.progressed = True
        raise error

    async def drive(queue: WorkQueue[str]) -> None:
        queue.add("a")
        while len(looks) < 4:
            await asyncio.sleep(0.01)

    asyncio.run(run_queue(work, drive))
    assert looks[3] - looks[2] < 1.0


def test_an_edit_does_not_wait_for_a_round_through_every_cluster() -> None:
    looks: list[str] = []

    async def work(key: str) -> None:
        looks.append(key)
        await asyncio.sleep(0.001)

    async def drive(queue: WorkQueue[str]) -> None:
        for number in range(100):
            queue.add(f"c{number}", leisurely=True)
        await asyncio.sleep(0.005)
        queue.add("edited")
        queue.add("c90")  # waits already, and is looked at once
        while len(looks) < 101:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)

    asyncio.run(run_queue(work, drive))
    assert max(looks.index("edited"), looks.index("c90")) < 60, looks
    assert sorted(looks) == sorted([*(f"c{number}" for number in range(100)), "edited"])


def test_a_key_has_one_timer_however_often_it_is_set() -> None:
    looks: list[str] = []

    async def work(key: str) -> None:
        looks.append(key)

    async def drive(queue: WorkQueue[str]) -> None:
        for _ in range(20):
            queue.add_after("a", 0.05)
        await asyncio.sleep(0.2)

    asyncio.run(run_queue(work, drive))
    assert looks == ["a"]


def test_back_off_doubles_and_has_an_end() -> None:
    backoff: Backoff[str] = Backoff(1.0, 8.0)

    assert [backoff.failed("a") for _ in range(5)] == [1, 2, 4, 8, 8]
    assert backoff.failed("a", at_least_s=20) == 20
    backoff.succeeded("a")
    assert backoff.failed("a") == 1


# -- election of operators --------------------------------------------------------------


def lease(holder: str, renewed: str = "1", duration: int = 15) -> dict[str, Any]:
    return {"spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": duration}}


def test_a_free_lease_is_taken_and_a_missing_one_made() -> None:
    assert Leadership("me").observe(None, 0.0)[1] is Step.CREATE
    assert Leadership("me").observe(lease(""), 0.0)[1] is Step.TAKE


def test_another_ones_lease_is_taken_only_after_it_stood_still_for_its_whole_duration() -> None:
    state, step = Leadership("me").observe(lease("you"), 100.0)
    assert step is Step.WAIT
    state, step = state.observe(lease("you"), 114.9)
    assert step is Step.WAIT
    renewed, step = state.observe(lease("you", renewed="2"), 115.1)
    assert step is Step.WAIT
    assert renewed.observe(lease("you", renewed="2"), 130.0)[1] is Step.WAIT
    assert state.observe(lease("you"), 115.1)[1] is Step.TAKE


def test_leadership_ends_before_another_could_begin() -> None:
    state = Leadership("me", Times(15, 10, 2)).written(100.0)

    assert state.leads(109.9)
    assert not state.leads(110.0)


def test_who_sees_another_holder_leads_no_more() -> None:
    state = Leadership("me").written(100.0)

    assert not state.observe(lease("you"), 101.0)[0].leads(101.0)


# -- store ------------------------------------------------------------------------------


def pod(name: str = "notes-0", version: int = 5, ready: bool = True, **meta: Any) -> dict[str, Any]:
    labels = {names.LABEL_CLUSTER: "notes"}
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": str(ready)}]}
    whole = {"name": name, "namespace": "shop", "uid": "u", "resourceVersion": str(version), "labels": labels, **meta}
    return {"metadata": whole, "spec": {}, "status": status}


def test_an_older_event_changes_nothing() -> None:
    store = Store()

    assert store.observe(kinds.POD, pod(version=7)) == [KEY]
    assert store.observe(kinds.POD, pod(version=6, ready=False)) == []
    assert store.surroundings(KEY).pods[0].ready


def test_an_event_that_says_nothing_new_wakes_nobody() -> None:
    store = Store()
    store.observe(kinds.POD, pod(version=5))

    assert store.observe(kinds.POD, pod(version=6)) == []


def renewal(version: int, time: str, **notes: str) -> dict[str, Any]:
    meta = {
        "name": "notes",
        "namespace": "shop",
        "resourceVersion": str(version),
        "labels": {names.LABEL_CLUSTER: "notes"},
    }
    return {"metadata": {**meta, "annotations": notes}, "spec": {"holderIdentity": "notes-0_u", "renewTime": time}}


def test_renewals_wake_nobody_but_keep_the_primary_alive() -> None:
    now = 100.0
    store = Store(clock=lambda: now)

    assert store.observe(kinds.LEASE, renewal(1, "a")) == [KEY]
    now = 200.0
    assert store.observe(kinds.LEASE, renewal(2, "b")) == []
    held = store.surroundings(KEY).lease
    assert held is not None
    assert not held.expired(205.0)
    assert held.expired(213.0)
    assert store.observe(kinds.LEASE, renewal(3, "c", **{names.ANNOTATION_EPOCH: "2"})) == [KEY]


def test_a_deletion_that_nobody_told_is_found_by_a_list() -> None:
    store = Store()
    store.observe(kinds.POD, pod("notes-0", version=5))
    store.observe(kinds.POD, pod("notes-1", version=9))

    assert store.sweep(kinds.POD, "", set(), version=8) == [KEY]
    assert [one.name for one in store.surroundings(KEY).pods] == ["notes-1"]


def test_a_node_that_is_cordoned_wakes_the_clusters_on_it() -> None:
    store = Store()
    found = pod()
    found["spec"] = {"nodeName": "node1"}
    store.observe(kinds.POD, found)
    store.observe(kinds.NODE, {"metadata": {"name": "node1"}})

    assert store.observe(kinds.NODE, {"metadata": {"name": "node1"}, "spec": {"unschedulable": True}}) == [KEY]


def test_nothing_is_kept_of_what_is_gone() -> None:
    store = Store()
    store.observe(kinds.POD, pod())
    store.observe(kinds.POD, pod(version=6), deleted=True)

    assert store._known == {}


# -- certificate authorities --------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "foreign"), [(NotOurs("taken"), True), (ValueError("no key"), False), (Forbidden("no right"), False)]
)
def test_what_is_wrong_with_an_authority_says_whether_the_name_is_taken(error: Exception, foreign: bool) -> None:
    class Service:
        async def ensure(self, _body: dict[str, Any]) -> Ensured:
            raise error

    found = asyncio.run(Authorities(Service(), Store()).ensure(KEY, {"metadata": {"uid": "u"}}))

    assert found == Disorder(str(error), foreign)


# -- the rest ---------------------------------------------------------------------------


def test_only_so_many_clusters_are_brought_to_a_new_operator_version_at_once() -> None:
    slots, first, second = Slots(1), Key("a", "a"), Key("b", "b")
    slots.settle(first, rolls=True, over=False)

    assert slots.free_for(first)
    assert not slots.free_for(second)
    slots.settle(first, rolls=False, over=False)
    assert not slots.free_for(second)
    slots.settle(first, rolls=False, over=True)
    assert slots.free_for(second)


@pytest.mark.parametrize(
    ("spec", "count", "expected"),
    [
        ({}, 3, True),
        ({}, 0, False),
        ({"hibernate": True}, 0, True),
        ({"hibernate": True}, 3, True),
        ({"suspend": True}, 0, True),
    ],
)
def test_a_cluster_that_is_put_to_sleep_keeps_no_slot(spec: dict[str, Any], count: int, expected: bool) -> None:
    raw = cluster(spec)

    assert needs_no_slot(case(raw, pods_of(raw)[:count])) is expected


def test_a_slot_is_kept_while_the_last_pod_does_not_do_its_part() -> None:
    assert not needs_no_slot(case(pods=changed(pods_of(cluster()), 0, ready=False)))


def test_a_deaf_leader_is_not_alive_and_a_waiting_operator_is() -> None:
    liveness = Liveness(0.0)

    assert liveness.alive(1000.0, leads=False)
    assert not liveness.alive(1000.0, leads=True)
    liveness.heard(950.0)
    assert liveness.alive(1000.0, leads=True)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (404, NotFound),
        (409, Conflict),
        (403, Forbidden),
        (422, Refused),
        (429, Unavailable),
        (500, Unavailable),
        (504, Unavailable),
    ],
)
def test_each_status_is_one_error(status: int, kind: type) -> None:
    found = error_from(status, "words", retry_after="3")

    assert type(found) is kind
    assert found.retry_after_s == 3


def test_ready_is_who_can_serve_pods() -> None:
    ready = False

    async def ask() -> int:
        server = HealthServer(lambda: True, lambda: ready, str)
        return (await server._readyz(make_mocked_request("GET", "/readyz"))).status

    assert asyncio.run(ask()) == 503
    ready = True
    assert asyncio.run(ask()) == 200


def test_an_address_may_have_no_host() -> None:
    assert split_address(":8080") == (None, 8080)
    assert split_address("[::1]:8080") == ("::1", 8080)


def test_the_newest_words_about_a_refused_pod_count() -> None:
    now = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)

    def event(minute: int, words: str, uid: str = "s") -> dict[str, Any]:
        at = now - dt.timedelta(minutes=minute)
        return {"lastTimestamp": at.isoformat(), "message": words, "involvedObject": {"uid": uid}}

    events = [event(3, "older"), event(1, "newest"), event(0, "another set", "x"), event(30, "history")]
    assert newest_refusal(events, "s", now) == "newest"
    assert newest_refusal([event(30, "history")], "s", now) == ""


def test_kopf_never_has_a_reason_to_write_to_a_cluster() -> None:
    """Its finalizer is not ours, or it would take ours away; and it has nothing but handlers of events."""
    made = watches.settings(kinds.WATCHED, ())
    registry = watches.registry(lambda _kind, _raw, _deleted: None, kinds.WATCHED, kubernetes.client.Configuration())

    assert made.persistence.finalizer != names.FINALIZER
    assert registry._changing.get_all_handlers() == []
    assert registry._spawning.get_all_handlers() == []
