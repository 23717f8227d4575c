"""Authorities in Secrets, trust in ConfigMaps: made once, kept, rotated, never taken from others."""

from __future__ import annotations

import asyncio
import datetime as dt
from dataclasses import replace

import pytest

from sqlitecluster_operator.identity import ca, secrets
from sqlitecluster_operator.identity.calls import Conflict
from sqlitecluster_operator.identity.secrets import Cluster, Ensured, NotOurs
from support.kubeobjects import FakeCalls

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
MINUTE, DAY = dt.timedelta(minutes=1), dt.timedelta(days=1)
OPERATOR = ca.make_authority("operator", NOW)
CLUSTER = Cluster("default", "notes", "uid-1")
URL = "https://op.svc:8443"


def ensure(api: FakeCalls, now: dt.datetime = NOW, cluster: Cluster = CLUSTER) -> Ensured:
    return asyncio.run(secrets.ensure(api, cluster, OPERATOR, URL, now))


def trusted(api: FakeCalls) -> tuple[bytes, ...]:
    return ca.split(api.objects["ConfigMap", "default", "notes-trust"]["data"]["ca.crt"].encode())


def authority(api: FakeCalls) -> ca.Authority:
    return secrets.from_secret(api.objects["Secret", "default", "notes-ca"])


def test_the_first_time_everything_is_made_and_then_nothing_is_written() -> None:
    api = FakeCalls()
    assert ensure(api).changed
    writes = api.writes
    again = ensure(api, NOW + DAY)
    assert (again.changed, again.rotating, api.writes) == (False, False, writes)
    data = api.objects["ConfigMap", "default", "notes-trust"]["data"]
    assert data["operator-url"] == URL and data["operator-ca.crt"].encode() == OPERATOR.bundle()
    assert trusted(api) == (authority(api).current.certificate,)
    meta = api.objects["Secret", "default", "notes-ca"]["metadata"]
    assert meta["ownerReferences"][0]["uid"] == "uid-1"
    assert meta["labels"]["sqlitecluster.dev/cluster"] == "notes"


def test_the_trust_bundle_has_no_key() -> None:
    api = FakeCalls()
    ensure(api)
    assert "PRIVATE" not in str(api.objects["ConfigMap", "default", "notes-trust"])


def test_an_authority_survives_its_secret() -> None:
    start = replace(ca.make_authority("x", NOW), rotation="r0")
    times = CLUSTER.times
    published = ca.advance(start, "x", "r1", times, NOW)
    signing = ca.advance(published, "x", "r1", times, NOW + times.publish)
    for value in (start, published, signing):
        assert secrets.from_secret(secrets.cluster_secret(CLUSTER, value)) == value


def test_a_rotation_by_annotation_goes_through_its_steps() -> None:
    api = FakeCalls()
    ensure(api)
    first = authority(api).current.certificate
    asked = replace(CLUSTER, rotate="2030-01")
    begun = ensure(api, NOW, asked)
    assert begun.rotating and len(trusted(api)) == 2 and authority(api).current.certificate == first
    signing = ensure(api, NOW + begun.again, asked)
    assert signing.rotating and authority(api).current.certificate != first and len(trusted(api)) == 2
    ended = ensure(api, NOW + begun.again + signing.again, asked)
    assert not ended.rotating and trusted(api) == (authority(api).current.certificate,)
    assert not ensure(api, NOW + 100 * DAY, asked).changed


def test_a_lost_secret_is_made_anew_and_pods_of_the_old_one_stay_trusted_for_the_overlap() -> None:
    api = FakeCalls()
    ensure(api)
    before = trusted(api)
    del api.objects["Secret", "default", "notes-ca"]
    ensure(api, NOW + DAY)
    assert trusted(api) == (authority(api).current.certificate, *before)
    ensure(api, NOW + 8 * DAY)
    assert trusted(api) == (authority(api).current.certificate,)


def test_a_changed_trust_bundle_is_put_right() -> None:
    api = FakeCalls()
    ensure(api)
    api.objects["ConfigMap", "default", "notes-trust"]["data"]["ca.crt"] = "somebody else's"
    assert ensure(api).changed and len(trusted(api)) == 1


def test_labels_and_annotations_of_others_stay() -> None:
    api = FakeCalls()
    ensure(api)
    meta = api.objects["Secret", "default", "notes-ca"]["metadata"]
    meta["annotations"]["backup/tool"] = "yes"
    meta["labels"]["team"] = "a"
    assert not ensure(api).changed
    ensure(api, NOW, replace(CLUSTER, rotate="r"))
    meta = api.objects["Secret", "default", "notes-ca"]["metadata"]
    assert meta["annotations"]["backup/tool"] == "yes" and meta["labels"]["team"] == "a"


@pytest.mark.parametrize(("kind", "name"), [("Secret", "notes-ca"), ("ConfigMap", "notes-trust")])
@pytest.mark.parametrize("labelled", [False, True])
def test_an_object_of_somebody_else_is_never_taken_over(kind: str, name: str, labelled: bool) -> None:
    api = FakeCalls()
    api.put(kind, "default", name, "x", owner=("SQLiteCluster", "uid-0") if labelled else None)
    if labelled:
        api.objects[kind, "default", name]["metadata"]["labels"] = {"sqlitecluster.dev/cluster": "notes"}
    with pytest.raises(NotOurs, match=name):
        ensure(api)
    assert api.writes == 1


def test_a_damaged_secret_is_not_replaced_in_silence() -> None:
    api = FakeCalls()
    ensure(api)
    api.objects["Secret", "default", "notes-ca"]["data"]["tls.crt"] = "AAAA"
    with pytest.raises(ValueError, match="notes-ca"):
        ensure(api)


@pytest.mark.parametrize("conflicts", [1, 3])
def test_two_operators_may_do_it_at_once(conflicts: int) -> None:
    api = FakeCalls(conflicts=conflicts)
    assert ensure(api).changed
    assert trusted(api) == (authority(api).current.certificate,)


def test_conflicts_without_end_are_left_to_the_next_reconcile() -> None:
    with pytest.raises(Conflict):
        ensure(FakeCalls(conflicts=99))


def test_all_replicas_of_the_operator_share_one_authority() -> None:
    api = FakeCalls()

    async def both() -> list[ca.Authority]:
        return await asyncio.gather(*(secrets.ensure_operator(api, "system", NOW) for _ in range(2)))

    one, other = asyncio.run(both())
    assert one == other


def test_times_come_from_the_object() -> None:
    body = {
        "metadata": {"namespace": "n", "name": "c", "uid": "u", "annotations": {"sqlitecluster.dev/rotate-ca": "7"}},
        "spec": {"tls": {"certificateLifetime": "60s", "caLifetime": "1h"}},
    }
    cluster = Cluster.of(body)
    assert (cluster.rotate, cluster.lifetime, cluster.ca_lifetime) == ("7", MINUTE, 60 * MINUTE)
    assert cluster.times.overlap == MINUTE and cluster.times.publish < 10 * MINUTE
    assert Cluster.of({"metadata": body["metadata"]}).lifetime == 7 * DAY
