"""What is performed of a plan when objects that pods depend on belong to somebody else."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile.actions import AnnotateLease, CreateLease, Memory
from sqlitecluster_operator.reconcile.observed import Surroundings
from sqlitecluster_operator.reconcile.plan import plan
from sqlitecluster_operator.runtime import kinds
from sqlitecluster_operator.runtime.api import Conflict, NotFound
from sqlitecluster_operator.runtime.executor import Executor, Outcome
from sqlitecluster_operator.runtime.store import Key, Store
from support.operator_cases import UID, case, cluster

KEY = Key("shop", "notes")
OURS = [{"controller": True, "uid": UID}]
ANNOTATE = AnnotateLease({names.ANNOTATION_FENCED: '["*"]'})


class FakeAPI:
    """Objects by kind and name; remembers what was written."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.written: list[str] = []
        self.patched: list[dict[str, Any]] = []
        self._version = 10

    def put(self, kind: str, body: dict[str, Any] | None = None, owners: Any = (), **meta: Any) -> dict[str, Any]:
        self._version += 1
        whole = {"name": "notes", "namespace": "shop", "uid": f"uid of {kind}", "ownerReferences": list(owners), **meta}
        made = {**(body or {}), "metadata": {**whole, "resourceVersion": str(self._version)}}
        self.objects[kind, whole["name"]] = made
        return made

    async def get(self, kind: kinds.Kind, _namespace: str, name: str) -> dict[str, Any]:
        if (kind.name, name) not in self.objects:
            raise NotFound("there is none")
        return self.objects[kind.name, name]

    async def apply(self, kind: kinds.Kind, body: dict[str, Any]) -> dict[str, Any]:
        self.written.append(f"{kind.name} {body['metadata']['name']}")
        return self.put(kind.name, body, **{**body["metadata"], "owners": body["metadata"]["ownerReferences"]})

    async def create(self, kind: kinds.Kind, _namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        if (kind.name, body["metadata"]["name"]) in self.objects:
            raise Conflict("it exists")
        return await self.apply(kind, body)

    async def patch(self, kind: kinds.Kind, _namespace: str, name: str, body: dict[str, Any]) -> dict[str, Any]:
        self.patched.append(body)
        return self.objects[kind.name, name]


def run(api: FakeAPI, store: Store, *actions: Any) -> Outcome:
    executor = Executor(api, store, KEY, UID)  # type: ignore[arg-type]
    return asyncio.run(executor.run(actions, Memory()))


def first_look() -> tuple[Any, ...]:
    """What is done for a new cluster, but for its finalizer."""
    raw = cluster(status={})
    made = plan(replace(case(raw, (), stateful_set=None), around=Surroundings()))
    return made.actions


def writes(api: FakeAPI) -> set[str]:
    return {one.partition(" ")[0] for one in api.written}


@pytest.mark.parametrize("kind", ["ServiceAccount", "Role", "RoleBinding", "Lease"])
@pytest.mark.parametrize("owners", [[], [{"controller": True, "uid": "another"}]])
def test_with_rights_or_a_lease_of_others_no_pods_are_made(kind: str, owners: Any) -> None:
    api = FakeAPI()
    api.put(kind, owners=owners)
    outcome = run(api, Store(), *first_look())

    assert outcome.foreign == {f"{kind} notes": f"{kind} notes exists and is not this SQLiteCluster's"}
    assert not writes(api) & {kind, "RoleBinding", "StatefulSet"}
    assert "Service" in writes(api)


def test_another_ones_service_keeps_nobody_from_rights_and_pods() -> None:
    api = FakeAPI()
    api.put("Service", name="notes-rw")
    run(api, Store(), *first_look())

    assert writes(api) >= {"ServiceAccount", "Role", "RoleBinding", "Lease", "StatefulSet"}


def test_a_statefulset_that_exists_goes_on() -> None:
    api, store = FakeAPI(), Store()
    labels = {names.LABEL_CLUSTER: "notes"}
    store.observe(kinds.STATEFUL_SET, api.put("StatefulSet", owners=OURS, labels=labels))
    api.put("Role")
    run(api, store, *first_look())

    assert "StatefulSet" in writes(api)
    assert "RoleBinding" not in writes(api)


@pytest.mark.parametrize("labelled", [True, False])
def test_another_ones_lease_is_never_annotated(labelled: bool) -> None:
    api, store = FakeAPI(), Store()
    labels = {names.LABEL_CLUSTER: "notes"} if labelled else {}
    store.observe(kinds.LEASE, api.put("Lease", labels=labels))
    outcome = run(api, store, ANNOTATE)

    assert api.patched == []
    assert list(outcome.foreign) == ["Lease notes"]


def test_our_lease_is_annotated_by_its_uid() -> None:
    """One that took its name meanwhile is not."""
    api, store = FakeAPI(), Store()
    store.observe(kinds.LEASE, api.put("Lease", owners=OURS, labels={names.LABEL_CLUSTER: "notes"}))
    run(api, store, ANNOTATE)
    run(api, Store(), ANNOTATE)

    assert [one["metadata"]["uid"] for one in api.patched] == ["uid of Lease"] * 2
    assert run(FakeAPI(), Store(), ANNOTATE).foreign == {}


def test_another_ones_lease_says_nothing_about_the_primary() -> None:
    api, store = FakeAPI(), Store()
    raw, labels = cluster(), {names.LABEL_CLUSTER: "notes"}
    store.observe(kinds.CLUSTER, raw)
    store.observe(kinds.LEASE, api.put("Lease", {"spec": {"holderIdentity": "x_y"}}, labels=labels))
    assert store.surroundings(KEY).lease is None
    store.observe(kinds.LEASE, api.put("Lease", {"spec": {"holderIdentity": "x_y"}}, owners=OURS, labels=labels))
    assert store.surroundings(KEY).lease is not None


def test_a_lease_of_others_is_not_said_to_be_made_anew_at_each_look() -> None:
    value = case(memory=Memory(foreign={"Lease notes": "exists"}))
    made = plan(replace(value, around=replace(value.around, lease=None)))

    assert [one for one in made.actions if isinstance(one, CreateLease)]
    assert "LeaseMadeAnew" not in [note.reason for note in made.notes]
