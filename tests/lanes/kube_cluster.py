"""Lane ``kube_cluster``: the local cluster is a real one, fails as real ones do, and leaves nothing.

It starts a cluster of its own beside any other. Pods, volumes, Services and names work;
a node loses power, network or time and comes back; after ``down`` there is no process,
namespace, cgroup or mount of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from localcluster import Cluster, ClusterError, cgroups, images, machine, processes
from support import busypods, kube, lane
from support.busypods import answer, page
from support.cluster import ClusterStartError
from support.lane import Run

CASES, case = lane.registry()

READY_AGAIN_S = 90.0
NOTICED_S = 60.0
API_STILL_S = 6.0


def running(run: Run) -> Cluster:
    """This lane's own cluster, up; the first case starts it."""
    os.environ[kube.STATE_VARIABLE] = str(run.folder / "k")
    cluster = kube.cluster_object()
    if not cluster.is_up():
        cluster.up()
    return cluster


@contextlib.contextmanager
def site(run: Run) -> Iterator[tuple[Cluster, str]]:
    """A namespace with a pod that serves its volume by HTTP, and a Service before it."""
    cluster = running(run)
    with kube.namespace("site", wait=False) as namespace:
        kube.apply(busypods.site(), namespace)
        kube.wait_condition("pod/web", "Ready", namespace)
        yield cluster, namespace


@case
def it_starts_and_a_second_start_does_nothing(run: Run) -> None:
    cluster = running(run)
    cluster.wait_nodes()
    before = _remembered(cluster)
    cluster.up()
    assert _remembered(cluster) == before, "the second start changed processes"
    version = json.loads(cluster.kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == version["clientVersion"]["gitVersion"] == "v1.34.2"


def _remembered(cluster: Cluster) -> dict[str, int | None]:
    """The cluster's own long-living processes."""
    names = [path.name for path in cluster.layout.pids.iterdir()]
    return {name: processes.recall(cluster.layout.pids, name) for name in names}


@case
def a_pod_with_a_volume_answers_by_its_service_name(run: Run) -> None:
    with site(run) as (cluster, namespace):
        assert answer(f"http://web.{namespace}.svc.cluster.local/") == page(namespace)
        assert answer(f"http://web.{namespace}/") == page(namespace)
        inside = cluster.kubectl("-n", namespace, "exec", "web", "--", "nslookup", f"web.{namespace}.svc.cluster.local")
        address = kube.get("service/web", namespace)["spec"]["clusterIP"]
        assert address in inside, inside


@case
def requests_spread_over_all_pods_of_a_service(run: Run) -> None:
    running(run)
    with kube.namespace("spread", wait=False) as namespace:
        kube.apply(busypods.crowd(3), namespace)
        kube.wait_for("three pods", lambda: kube.get("deployment/crowd", namespace)["status"]["readyReplicas"] == 3)
        nodes = {pod["spec"]["nodeName"] for pod in kube.get("pods", namespace)["items"]}
        assert len(nodes) == 3, f"three pods are on {nodes}"
        kube.wait_for("three voices", lambda: len(_voices(namespace)) == 3)


def _voices(namespace: str) -> set[str]:
    return {answer(f"http://crowd.{namespace}/") for _ in range(12)} - {""}


@case
def a_volume_grows(run: Run) -> None:
    with site(run) as (cluster, namespace):
        wanted = {"spec": {"resources": {"requests": {"storage": "3Gi"}}}}
        cluster.kubectl("-n", namespace, "patch", "pvc", "data", "-p", json.dumps(wanted))
        kube.wait_for(
            "the volume's new size",
            lambda: kube.get("pvc/data", namespace)["status"]["capacity"]["storage"] == "3Gi",
        )


@case
def a_mount_of_a_sidecar_reaches_the_program_beside_it(run: Run) -> None:
    running(run)
    with kube.namespace("mounts", wait=False) as namespace:
        kube.apply(busypods.shared_mount(), namespace)
        kube.wait_condition("pod/mounts", "Ready", namespace)
        seen = kube.kubectl("-n", namespace, "exec", "mounts", "-c", "program", "--", "cat", "/data/inner/word")
        assert seen.strip() == "mounted"
        began = time.monotonic()
        kube.kubectl("-n", namespace, "delete", "pod", "mounts", "--timeout=60s", limit_s=90)
        run.say(f"a pod with a mount is gone in {time.monotonic() - began:.1f} s")


@case
def tokens_are_bound_to_pods_and_rules_are_kept(run: Run) -> None:
    cluster = running(run)
    with kube.namespace("rules", {"pod-security.kubernetes.io/enforce": "baseline"}, wait=False) as namespace:
        try:
            kube.apply(busypods.shared_mount(), namespace)
        except ClusterError as error:
            assert "PodSecurity" in str(error)
        else:
            raise AssertionError("a privileged pod was let into a baseline namespace")
        kube.apply(busypods.closed_network(), namespace)
        kube.apply(busypods.with_token("local.test"), namespace)
        kube.wait_condition("pod/token", "Ready", namespace)
        token = cluster.kubectl("-n", namespace, "exec", "token", "--", "cat", "/identity/token")
        review = busypods.token_review(token, "local.test")
        found = json.loads(cluster.kubectl("create", "-o", "json", "-f", "-", text=json.dumps(review)))["status"]
        assert found["authenticated"], found
        assert found["user"]["extra"]["authentication.kubernetes.io/pod-name"] == ["token"], found


@case
def a_node_without_power_comes_back_with_its_data(run: Run) -> None:
    with site(run) as (cluster, namespace):
        node = kube.get("pod/web", namespace)["spec"]["nodeName"]
        cluster.kubectl("-n", namespace, "exec", "web", "--", "sh", "-c", "echo kept >/data/kept && sync")
        cluster.power_off(node)
        assert cluster.states()[node] == "off"
        assert not answer(f"http://web.{namespace}/"), "a pod without power answers"
        kube.wait_for("the loss is noticed", lambda: node not in cluster.client.ready_nodes(), limit_s=NOTICED_S)
        cluster.power_on(node)
        cluster.wait_nodes(limit_s=READY_AGAIN_S)
        _served_again(namespace)
        assert answer(f"http://web.{namespace}/kept") == "kept"


@case
def a_cut_node_is_noticed_and_comes_back(run: Run) -> None:
    with site(run) as (cluster, namespace):
        node = kube.get("pod/web", namespace)["spec"]["nodeName"]
        cluster.cut(node)
        try:
            assert cluster.states()[node] == "cut"
            assert not answer(f"http://web.{namespace}/"), "a pod behind a cut cable answers"
            kube.wait_for("the cut is noticed", lambda: node not in cluster.client.ready_nodes(), limit_s=NOTICED_S)
        finally:
            cluster.mend(node)
        cluster.wait_nodes(limit_s=READY_AGAIN_S)
        _served_again(namespace)


@case
def a_frozen_node_says_nothing_and_goes_on(run: Run) -> None:
    with site(run) as (cluster, namespace):
        node = kube.get("pod/web", namespace)["spec"]["nodeName"]
        cluster.freeze(node)
        try:
            assert cluster.states()[node] == "frozen"
            assert not answer(f"http://web.{namespace}/"), "a frozen pod answers"
            kube.wait_for("the frost is noticed", lambda: node not in cluster.client.ready_nodes(), limit_s=NOTICED_S)
        finally:
            cluster.thaw(node)
        cluster.wait_nodes(limit_s=READY_AGAIN_S)
        _served_again(namespace)


@case
def another_start_heals_what_was_broken(run: Run) -> None:
    cluster = running(run)
    cluster.power_off("node1")
    cluster.cut("node2")
    cluster.freeze("node3")
    cluster.freeze_api()
    cluster.up()
    assert set(cluster.states().values()) == {"on"}
    cluster.wait_nodes()


def _served_again(namespace: str) -> None:
    """The pod (or, when it was marked for deletion meanwhile, one made anew) serves."""

    def look() -> bool:
        kube.apply(busypods.site(), namespace)
        return answer(f"http://web.{namespace}/") == page(namespace)

    try:
        kube.wait_for("the pod serves again", look, limit_s=READY_AGAIN_S, step_s=1.0)
    except AssertionError as error:
        pods = kube.kubectl("get", "pods", "--all-namespaces", "--output=wide")
        raise AssertionError(f"{error}\n{pods}\n{kube.kubectl('-n', namespace, 'describe', 'pod/web')}") from None


@case
def a_frozen_api_server_leaves_programs_alone(run: Run) -> None:
    with site(run) as (cluster, namespace):
        cluster.freeze_api()
        try:
            with contextlib.suppress(ClusterError):
                cluster.kubectl("get", "nodes", limit_s=API_STILL_S)
                raise AssertionError("a frozen API server answers")
            assert answer(f"http://web.{namespace}/") == page(namespace)
        finally:
            cluster.thaw_api()
        cluster.wait_nodes(limit_s=READY_AGAIN_S)


@case
def loaded_images_stay_and_nothing_else_does(run: Run) -> None:
    cluster = running(run)
    word = run.new_folder("image") / "word"
    word.write_text(f"{run.seed}\n")
    made = images.Image(
        "docker.io/local/loaded",
        {"bin/busybox": images.busybox(), "word": word},
        links={"bin/sh": "busybox", "bin/cat": "busybox", "bin/sleep": "busybox"},
    )
    reference, archive = images.write(made, word.parent)
    cluster.load([archive])
    inside = set(cgroups.members(cluster.layout.cgroup()))
    assert len(inside) > 15, inside
    cluster.down()
    _nothing_is_left(cluster.layout.identity, cluster.layout.state, inside)
    cluster.up()
    with kube.namespace("loaded", wait=False) as namespace:
        kube.apply(busypods.one("loaded", reference, ["sleep", "1000"]), namespace)
        kube.wait_condition("pod/loaded", "Ready", namespace)
        assert cluster.kubectl("-n", namespace, "exec", "loaded", "--", "cat", "/word") == word.read_text()


@case
def after_down_nothing_is_left(run: Run) -> None:
    cluster = running(run)
    kube.apply(busypods.site(), "default")
    kube.wait_condition("pod/web", "Ready", "default")
    inside = set(cgroups.members(cluster.layout.cgroup()))
    cluster.down(everything=True)
    _nothing_is_left(cluster.layout.identity, cluster.layout.state, inside)
    assert not cluster.layout.state.exists()


def _nothing_is_left(identity: str, state: Path, pids: set[int]) -> None:
    left = [pid for pid in pids if processes.alive(pid)]
    assert not left, f"processes {left} still run"
    assert not list(Path("/run/netns").glob(f"{identity}-*")), "network namespaces are left"
    groups = [str(root / identity) for root in cgroups.hierarchies() if (root / identity).exists()]
    assert not groups, f"cgroups {groups} are left"
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(state) in line]
    assert not mounts, f"mounts are left: {mounts}"
    assert not (state / "run").exists() and not (state / "kubeconfig").exists()


def body(run: Run) -> None:
    """All cases; whatever happens, the cluster is ended."""
    if os.geteuid() or machine.missing():
        raise ClusterStartError("; ".join(machine.missing()) or "this lane needs root")
    try:
        lane.run_cases(run, CASES)
    finally:
        if os.environ.get(kube.STATE_VARIABLE):
            kube.cluster_object().down(everything=True)


def main() -> int:
    """Entry of ``python -m lanes.kube_cluster``."""
    run = lane.parse("kube_cluster", "cases", len(CASES), None)
    if run.options.list:
        print("\n".join(CASES))
        return 0
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
