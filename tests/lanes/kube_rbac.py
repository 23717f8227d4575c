"""What the operator's and the pods' ServiceAccounts may do, asked of a real API server: these things and no others.

    python -m lanes.kube_rbac [--count N]

The roles are the chart's and the operator's own; the tables below are written by hand. Every verb on every
resource that the API server knows is asked for, as ``kubectl auth can-i --as`` does, and compared.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import yaml

from lanes.kube_chart import CHART, KUBERNETES
from sqlitecluster_operator import names
from sqlitecluster_operator.api import parse as parse_cluster
from sqlitecluster_operator.objects import access
from support import cel_case, kubeapi
from support.kubeapi import Kube, account
from support.lane import Run, scene_main

HOME = f"lane-rbac-{os.getpid()}"  # where the operator is
SERVED = f"{HOME}-served"
OTHER = f"{HOME}-other"
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
MORE = (("", "serviceaccounts", "impersonate"), ("rbac.authorization.k8s.io", "roles", "escalate"))
MORE = (*MORE, ("rbac.authorization.k8s.io", "roles", "bind"), ("", "users", "impersonate"))
Right = tuple[str, str, str]  # group, resource, verb

READ = "get list watch"
OWN = "get list watch create patch delete"
IN_NAMESPACE = {
    ("sqlitecluster.dev", "sqliteclusters"): "get list watch patch",
    ("sqlitecluster.dev", "sqliteclusters/status"): "patch",
    ("sqlitecluster.dev", "sqliteclusters/finalizers"): "update",
    ("apps", "statefulsets"): OWN,
    ("", "services"): OWN,
    ("", "configmaps"): f"{OWN} update",
    ("", "serviceaccounts"): OWN,
    ("", "pods"): "get list watch patch delete",
    ("", "persistentvolumeclaims"): "get list watch patch",
    ("", "secrets"): "get create update",
    ("rbac.authorization.k8s.io", "roles"): OWN,
    ("rbac.authorization.k8s.io", "rolebindings"): OWN,
    ("coordination.k8s.io", "leases"): f"{OWN} update",
    ("policy", "poddisruptionbudgets"): OWN,
    ("networking.k8s.io", "networkpolicies"): OWN,
    ("monitoring.coreos.com", "podmonitors"): "get create patch delete",
    ("", "events"): "get list create patch",
}
EVERYWHERE = {
    ("authentication.k8s.io", "tokenreviews"): "create",
    ("", "nodes"): READ,
}
AT_HOME = {("coordination.k8s.io", "leases"): "create", ("", "secrets"): "create"}
SIDECAR = {("", "pods"): READ}


def rights(*tables: dict[tuple[str, str], str]) -> set[Right]:
    """The tables as single rights."""
    return {(*what, verb) for table in tables for what, verbs in table.items() for verb in verbs.split()}


def resources(kube: Kube) -> Iterator[tuple[str, str]]:
    """Every resource and subresource that the API server has."""
    for resource in kube.request("GET", "/api/v1").body["resources"]:
        yield "", resource["name"]
    for group in kube.request("GET", "/apis").body["groups"]:
        version = group["preferredVersion"]["groupVersion"]
        for resource in kube.request("GET", f"/apis/{version}").body["resources"]:
            yield group["name"], resource["name"]
    yield "sqlitecluster.dev", "sqliteclusters/finalizers"  # no endpoint, but asked for by admission
    yield "monitoring.coreos.com", "podmonitors"  # the Prometheus operator may come later


def everything(kube: Kube) -> list[Right]:
    """All that can be asked."""
    return [*((group, name, verb) for group, name in sorted(set(resources(kube))) for verb in VERBS), *MORE]


def held(kube: Kube, user: str, namespace: str, asked: list[Right]) -> set[Right]:
    """What of it a user may do on every object, beyond what each account may."""
    nobody = account(OTHER, "nobody")
    mine = allowed(kube, user, namespace, asked)
    return mine - allowed(kube, nobody, namespace, list(mine))


def allowed(kube: Kube, user: str, namespace: str, asked: list[Right]) -> set[Right]:
    """What of it a user may do."""
    with ThreadPoolExecutor(kubeapi.AT_ONCE) as pool:
        answers = pool.map(lambda one: kube.allowed(user, one[2], one[1], group=one[0], namespace=namespace), asked)
        return {one for one, yes in zip(asked, answers, strict=True) if yes}


def compare(what: str, have: set[Right], want: set[Right]) -> None:
    """Exactly what is wanted."""
    assert not have - want, f"{what}: may also {sorted(have - want)}"
    assert not want - have, f"{what}: may not {sorted(want - have)}"


def install(kube: Kube, release: str, *values: str) -> str:
    """The roles of a release, without its Deployment; returns the operator's user name."""
    done = kube.helm(
        "template", release, CHART, "--namespace", HOME, "--no-hooks", "--kube-version", KUBERNETES, *values
    )
    assert done.returncode == 0, done.stderr
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    chosen = [one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] in kinds]
    applied = kube.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(chosen))
    assert applied.returncode == 0, applied.stderr
    return account(HOME, f"{release}-sqlitecluster")


def remove(kube: Kube, release: str) -> None:
    """What of a release is in no namespace."""
    name = f"{release}-sqlitecluster-{HOME}"
    kube.kubectl("delete", "clusterrolebinding", name, "--ignore-not-found")
    kube.kubectl("delete", "clusterrole", name, f"{name}-view", f"{name}-edit", "--ignore-not-found")


def cluster_wide(kube: Kube, _run: Run) -> None:
    """Without watchNamespaces the operator has its rights in every namespace."""
    user, asked = install(kube, "wide"), everything(kube)
    try:
        for namespace in (SERVED, OTHER, ""):
            compare(
                f"cluster-wide in {namespace!r}", held(kube, user, namespace, asked), rights(IN_NAMESPACE, EVERYWHERE)
            )
    finally:
        remove(kube, "wide")


def namespaced(kube: Kube, _run: Run) -> None:
    """With watchNamespaces it has them there, and next to nothing elsewhere."""
    user, asked = install(kube, "narrow", "--set", f"watchNamespaces={{{SERVED}}}"), everything(kube)
    try:
        compare("in a served namespace", held(kube, user, SERVED, asked), rights(IN_NAMESPACE, EVERYWHERE))
        compare("in another namespace", held(kube, user, OTHER, asked), rights(EVERYWHERE))
        compare("in all namespaces", held(kube, user, "", asked), rights(EVERYWHERE))
        compare("in its own namespace", held(kube, user, HOME, asked), rights(EVERYWHERE, AT_HOME))
        own = (
            ("coordination.k8s.io", "leases", "sqlitecluster-operator"),
            ("", "secrets", "sqlitecluster-operator-ca"),
        )
        for group, resource, name in own:
            for verb in ("get", "update"):
                assert kube.allowed(user, verb, resource, group=group, namespace=HOME, name=name), f"{verb} {name}"
                assert not kube.allowed(user, verb, resource, group=group, namespace=HOME, name="other"), resource
    finally:
        remove(kube, "narrow")


def people(kube: Kube, _run: Run) -> None:
    """The roles view and edit of Kubernetes reach SQLiteClusters, but not what the operator reports."""
    install(kube, "people")
    try:
        for role in ("view", "edit"):
            words = [f"--clusterrole={role}", f"--serviceaccount={SERVED}:{role}er", "-n", SERVED]
            done = kube.kubectl("create", "rolebinding", f"{role}er", *words)
            assert done.returncode == 0 or "exists" in done.stderr, done.stderr
        viewer, editor = account(SERVED, "viewer"), account(SERVED, "editer")
        may = partial(kube.allowed, resource="sqliteclusters", group="sqlitecluster.dev", namespace=SERVED)
        wait_until(lambda: may(editor, "create"), "aggregated roles")
        assert all(may(viewer, verb) for verb in READ.split()), "view does not show SQLiteClusters"
        assert not any(may(viewer, verb) for verb in ("create", "update", "patch", "delete")), "view may write"
        assert all(may(editor, verb) for verb in (*VERBS,)), "edit may not all"
        status = {"resource": "sqliteclusters/status", "group": "sqlitecluster.dev", "namespace": SERVED}
        assert not kube.allowed(editor, "patch", **status), "edit may write the status"
        assert kube.allowed(editor, "update", "sqliteclusters/scale", group="sqlitecluster.dev", namespace=SERVED)
    finally:
        remove(kube, "people")


def sidecar(kube: Kube, _run: Run) -> None:
    """A pod's account: its Lease, its cluster's pods' labels, reading pods. The operator itself grants it."""
    operator = install(kube, "grants", "--set", f"watchNamespaces={{{SERVED}}}")
    try:
        body = cel_case.merged(cel_case.base(), {"metadata": {"namespace": SERVED, "uid": "0" * 8}})
        cluster = parse_cluster(body)
        for made in (access.service_account(cluster), access.role(cluster, 3), access.role_binding(cluster)):
            grant(kube, operator, made)
        check_sidecar(kube, account(SERVED, "notes"))
    finally:
        remove(kube, "grants")


def grant(kube: Kube, operator: str, made: dict[str, Any]) -> None:
    """Apply an object as the operator does; it must hold what it grants."""
    made["metadata"].pop("ownerReferences", None)  # the cluster does not exist here
    plural = {"ServiceAccount": "serviceaccounts", "Role": "roles", "RoleBinding": "rolebindings"}[made["kind"]]
    root = "/api/v1" if made["apiVersion"] == "v1" else f"/apis/{made['apiVersion']}"
    path = f"{root}/namespaces/{SERVED}/{plural}/{made['metadata']['name']}?fieldManager=lane&force=true"
    answer = kube.request("PATCH", path, made, as_user=operator, kind="apply-patch")
    assert answer.ok, f"the operator may not make the {made['kind']}: {answer.message}"


def check_sidecar(kube: Kube, user: str) -> None:
    """The account of the pods of ``notes``."""
    asked = everything(kube)
    compare("a pod on all objects", held(kube, user, SERVED, asked), rights(SIDECAR))
    compare("a pod in another namespace", held(kube, user, OTHER, asked), set())
    compare("a pod outside namespaces", held(kube, user, "", asked), set())
    lease = partial(kube.allowed, user, resource="leases", group="coordination.k8s.io", namespace=SERVED)
    for verb in VERBS:
        assert lease(verb, name="notes") == (verb in ("get", "update", "watch")), f"{verb} of its Lease"
        assert not lease(verb, name="other"), f"{verb} of another Lease"
        for pod in ("notes-0", "notes-2"):
            wanted = verb in ("get", "list", "watch", "patch")
            assert kube.allowed(user, verb, "pods", namespace=SERVED, name=pod) == wanted, f"{verb} {pod}"
        for pod in ("notes-3", "other-0"):
            assert kube.allowed(user, verb, "pods", namespace=SERVED, name=pod) == (verb in READ.split()), (
                f"{verb} {pod}"
            )
        for secret in ("notes-ca", names.trust_map("notes")):
            assert not kube.allowed(user, verb, "secrets", namespace=SERVED, name=secret), f"{verb} {secret}"
    assert not kube.allowed(user, "create", "pods/exec", namespace=SERVED, name="notes-0")
    assert not kube.allowed(user, "patch", "pods/status", namespace=SERVED, name="notes-0")


def operator_cannot_grant_more(kube: Kube, _run: Run) -> None:
    """The operator cannot give away what it does not hold."""
    operator = install(kube, "more", "--set", f"watchNamespaces={{{SERVED}}}")
    try:
        rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}
        meta = {"name": "greedy", "namespace": SERVED}
        body = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta, "rules": [rule]}
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{SERVED}/roles"
        answer = kube.request("POST", path, body, as_user=operator)
        assert answer.status == 403, f"the operator granted the list of secrets: {answer.status} {answer.message}"
    finally:
        remove(kube, "more")


def can_i(kube: Kube, _run: Run) -> None:
    """``kubectl auth can-i`` says the same as the reviews above."""
    user = install(kube, "words", "--set", f"watchNamespaces={{{SERVED}}}")
    try:
        rows = (
            ("create statefulsets.apps", "yes"),
            ("patch sqliteclusters.sqlitecluster.dev", "yes"),
            ("patch sqliteclusters.sqlitecluster.dev --subresource=status", "yes"),
            ("create pods --subresource=eviction", "no"),
            ("create pods --subresource=exec", "no"),
            ("create pods", "no"),
            ("list secrets", "no"),
            ("delete nodes", "no"),
            ("update sqliteclusters.sqlitecluster.dev", "no"),
            ("* *", "no"),
        )
        for words, said in rows:
            done = kube.kubectl("auth", "can-i", *words.split(), f"--as={user}", "-n", SERVED)
            assert done.stdout.strip() == said, f"can-i {words}: {done.stdout}{done.stderr}"
    finally:
        remove(kube, "words")


def wait_until(look: Any, what: str) -> None:
    """Wait for the API server's controllers."""
    import time

    until = time.monotonic() + 60
    while not look():
        assert time.monotonic() < until, f"not in 60 s: {what}"
        time.sleep(0.2)


CASES = {
    "cluster-wide": cluster_wide,
    "namespaced": namespaced,
    "people": people,
    "sidecar": sidecar,
    "grants-no-more": operator_cannot_grant_more,
    "can-i": can_i,
}


@contextmanager
def scene(_run: Run) -> Iterator[Kube]:
    """The API server with the definition and the lane's namespaces."""
    kube = kubeapi.connect()
    kube.install_definition()
    for namespace in (HOME, SERVED, OTHER):
        kube.make_namespace(namespace)
    try:
        yield kube
    finally:
        for namespace in (HOME, SERVED, OTHER):
            kube.drop_namespace(namespace)


def main() -> int:
    """Entry of ``python -m lanes.kube_rbac``."""
    return scene_main("kube_rbac", "cases", CASES, scene)


if __name__ == "__main__":
    sys.exit(main())
