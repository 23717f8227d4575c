"""Who gets a certificate: the table of refusals."""

from __future__ import annotations

import copy
import datetime as dt
import json
from typing import Any

import pytest

from sqlitecluster_operator.identity import claims
from sqlitecluster_operator.identity.claims import Caller, Refused, Request
from sqlitecluster_operator.identity.limits import Buckets
from support.kubeobjects import review

GOOD = review("default", "notes", "notes-1", "uid-1")
ASKED = Request(b"", "default", "notes", None)
CALLER = Caller("default", "notes", "notes-1", "uid-1")


def test_a_pods_token_names_the_pod() -> None:
    assert claims.read_review(GOOD) == CALLER


def changed(**change: Any) -> dict[str, Any]:
    status = copy.deepcopy(GOOD)
    for path, value in change.items():
        *folders, last = path.split("__")
        target = status
        for folder in folders:
            target = target[folder]
        target[last] = value
    return status


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({}, "InvalidToken"),
        (changed(authenticated=False), "InvalidToken"),
        (changed(authenticated="true"), "InvalidToken"),
        (changed(audiences=[]), "WrongAudience"),
        (changed(audiences=["https://kubernetes.default.svc"]), "WrongAudience"),
        (changed(audiences=None), "WrongAudience"),
        (changed(user__username="kubernetes-admin"), "NotAPod"),
        (changed(user__username="system:serviceaccount:default:notes:x"), "NotAPod"),
        (changed(user__extra={}), "NotAPod"),
        (changed(user__extra=None), "NotAPod"),
        (changed(user__extra={"authentication.kubernetes.io/pod-name": ["notes-1"]}), "NotAPod"),
    ],
)
def test_a_token_that_is_no_pods(status: dict[str, Any], code: str) -> None:
    with pytest.raises(Refused) as error:
        claims.read_review(status)
    assert error.value.code == code and error.value.status in (401, 403)


@pytest.mark.parametrize(
    ("caller", "why"),
    [
        (Caller("other", "notes", "notes-1", "u"), "namespace"),
        (Caller("default", "default", "notes-1", "u"), "ServiceAccount"),
        (Caller("default", "notes", "notes", "u"), "no instance"),
        (Caller("default", "notes", "notes-", "u"), "no instance"),
        (Caller("default", "notes", "notes-01", "u"), "no instance"),
        (Caller("default", "notes", "notes-1-x", "u"), "no instance"),
        (Caller("default", "notes", "notes-x-1", "u"), "no instance"),
        (Caller("default", "notes", "backup-1", "u"), "no instance"),
    ],
)
def test_a_pod_that_is_none_of_the_cluster(caller: Caller, why: str) -> None:
    with pytest.raises(Refused, match=why) as error:
        claims.check_cluster(caller, ASKED)
    assert (error.value.status, error.value.code) == (403, "Forbidden")


def body(uid: str, kind: str = "", owner: str = "", **more: Any) -> dict[str, Any]:
    owners = [{"kind": kind, "uid": owner, "controller": True, **more}] if kind else []
    return {"metadata": {"uid": uid, "ownerReferences": owners}}


CLUSTER, OWNER, POD = body("c"), body("s", "SQLiteCluster", "c"), body("uid-1", "StatefulSet", "s")


def test_objects_that_agree() -> None:
    assert claims.check_objects(CALLER, ASKED, CLUSTER, OWNER, POD) is CLUSTER


@pytest.mark.parametrize(
    ("cluster", "owner", "pod", "status"),
    [
        (None, OWNER, POD, 404),
        (CLUSTER, None, POD, 403),
        (CLUSTER, body("s"), POD, 403),
        (CLUSTER, body("s", "SQLiteCluster", "an earlier one"), POD, 403),
        (CLUSTER, OWNER, body("another pod of the name", "StatefulSet", "s"), 403),
        (CLUSTER, OWNER, body("uid-1"), 403),
        (CLUSTER, OWNER, body("uid-1", "StatefulSet", "another"), 403),
        (CLUSTER, OWNER, body("uid-1", "ReplicaSet", "s"), 403),
        (CLUSTER, OWNER, body("uid-1", "StatefulSet", "s", controller=False), 403),
    ],
)
def test_objects_that_do_not_agree(cluster: Any, owner: Any, pod: Any, status: int) -> None:
    with pytest.raises(Refused) as error:
        claims.check_objects(CALLER, ASKED, cluster, owner, pod)
    assert error.value.status == status


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        b"{",
        b"\xff\xfe",
        b'{"csr": "x"}',
        b'{"csr": 5, "cluster": "a/b"}',
        b'{"csr": "x", "cluster": "a"}',
        b'{"csr": "x", "cluster": "a/b/c"}',
        b'{"csr": "x", "cluster": "../b"}',
        b'{"csr": "x", "cluster": "A/b"}',
        b'{"csr": "x", "cluster": "a/b\\n"}',
        b'{"csr": "x", "cluster": "a/b", "lifetimeSeconds": "5"}',
        b'{"csr": "x", "cluster": "a/b", "lifetimeSeconds": -1}',
        b'{"csr": "x", "cluster": "a/b", "lifetimeSeconds": 1e300}',
        b"[" * 10_000,
    ],
)
def test_a_body_of_the_wrong_shape(raw: bytes) -> None:
    with pytest.raises(Refused) as error:
        claims.read_body(raw)
    assert error.value.status == 400


def test_a_body_that_is_too_large() -> None:
    with pytest.raises(Refused) as error:
        claims.read_body(b" " * (claims.MAX_BODY + 1))
    assert error.value.status == 413


@pytest.mark.parametrize("header", [None, "", "Bearer", "Bearer ", "Basic abc", "Bearer " + "x" * 10_000])
def test_a_header_without_a_token(header: str | None) -> None:
    with pytest.raises(Refused) as error:
        claims.read_token(header)
    assert error.value.status == 401


@pytest.mark.parametrize(("asked", "given"), [(None, 100.0), (50, 50.0), (1000, 100.0), (1, 10.0)])
def test_the_operators_limit_holds(asked: float | None, given: float) -> None:
    raw = {"csr": "x", "cluster": "a/b"} | ({} if asked is None else {"lifetimeSeconds": asked})
    request = claims.read_body(json.dumps(raw).encode())
    assert claims.lifetime_of(request, dt.timedelta(seconds=100)).total_seconds() == given


def test_a_bucket_gives_its_burst_and_then_one_each_interval() -> None:
    buckets = Buckets(burst=2, every_s=10, keys=3)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0, 0, 10]
    assert buckets.take("b", 0.0) == 0
    assert (buckets.take("a", 9.0), buckets.take("a", 10.0), buckets.take("a", 10.0)) == (1, 0, 10)
    for key in "bcd":
        buckets.take(key, 11.0)
    assert buckets.take("a", 11.0) == 0, "the one that was silent for longest is forgotten, the table is bounded"
