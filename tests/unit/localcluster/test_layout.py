"""Names, addresses and texts of the local cluster: no two clusters meet, all parts agree."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from localcluster import layout, manifests, network, nodeconfig
from localcluster.layout import Layout, Node

STATE = Path("/somewhere/.cluster")


def test_two_clusters_share_no_name() -> None:
    one, other = Layout(STATE), Layout(Path("/elsewhere/.cluster"))

    assert one.identity != other.identity
    assert one.namespace("node1") != other.namespace("node1")
    assert one.cgroup("node1") != other.cgroup("node1")


def test_names_fit_where_the_kernel_is_narrow() -> None:
    assert all(len(f"p-{part}") <= 15 for part in network.ports(Layout(STATE, 9)))


@pytest.mark.parametrize("name", ["node2", "2"])
def test_a_node_is_found_by_name_or_number(name: str) -> None:
    assert Layout(STATE).node(name) == Node(2)


def test_an_unknown_node_is_named_with_those_there_are() -> None:
    with pytest.raises(KeyError, match="no node 'node9'; there are node1, node2, node3"):
        Layout(STATE).node("node9")


def test_addresses_do_not_overlap() -> None:
    nets = [ipaddress.ip_network(net) for net in (layout.BRIDGE_NET, layout.POD_NET, layout.SERVICE_NET)]
    assert not any(a.overlaps(b) for a in nets for b in nets if a is not b)
    for node in Layout(STATE).nodes:
        assert ipaddress.ip_address(node.address) in nets[0]
        assert ipaddress.ip_network(node.pod_net).subnet_of(nets[1])  # type: ignore[arg-type]
    for address in (layout.DNS_ADDRESS, layout.API_SERVICE_ADDRESS):
        assert ipaddress.ip_address(address) in nets[2]


def test_what_down_wipes_and_what_stays_are_apart() -> None:
    plan = Layout(STATE)
    wiped = [plan.pki, plan.logs, plan.pids, plan.api_socket, plan.node_folder(Node(1))]
    kept = [plan.bin, plan.images, plan.store(Node(1))]

    assert all(path.is_relative_to(plan.run) for path in wiped)
    assert not any(path.is_relative_to(plan.run) for path in kept)


def test_every_part_has_a_route_to_all_pods_and_to_services() -> None:
    plan = Layout(STATE)
    for part in network.ports(plan):
        lines = network.part_lines(plan, part)
        routed = {line.split()[2] for line in lines if line.startswith("route add")}
        assert routed == {n.pod_net for n in plan.nodes if n.name != part} | {layout.SERVICE_NET}


def test_a_part_never_routes_services_to_itself() -> None:
    assert network.part_lines(Layout(STATE), "client")[-1].endswith("via 10.88.0.11")
    assert network.part_lines(Layout(STATE), "node1")[-1].endswith("dev eth0")


def files() -> dict[str, str]:
    return nodeconfig.files(Node(2), cgroup="sqc-0/node2", pause_image="local/pause:1", images={"a:1": "/i/a.tar"})


def test_containerd_reads_its_configuration() -> None:
    parsed = tomllib.loads(files()["containerd.toml"])
    cri = parsed["plugins"]["io.containerd.grpc.v1.cri"]

    assert cri["sandbox_image"] == "local/pause:1"
    assert cri["cni"] == {"bin_dir": "/usr/lib/cni", "conf_dir": "/run/node/cni"}


def test_while_old_containers_are_cleaned_kubelet_has_no_runtime() -> None:
    parsed = tomllib.loads(files()["cleaning.toml"])

    assert "io.containerd.grpc.v1.cri" in parsed["disabled_plugins"]
    assert "plugins" not in parsed


def test_kubelet_keeps_to_its_cgroup_and_its_own_names() -> None:
    config = json.loads(files()["kubelet.json"])

    assert config["cgroupRoot"] == "/sqc-0/node2"
    assert config["clusterDNS"] == [layout.DNS_ADDRESS]
    assert config["imageGCHighThresholdPercent"] == 100, "loaded images must stay: there is no registry"
    assert files()["resolv.conf"] == ""


def test_pods_of_a_node_get_its_own_addresses() -> None:
    plugin = json.loads(files()["cni/10-pods.conflist"])["plugins"][0]

    assert plugin["ipam"]["ranges"] == [[{"subnet": "10.89.2.0/24"}]]
    assert plugin["ipMasq"] is False, "sidecars must see each other's real addresses"


def test_the_first_process_of_a_node_is_valid_shell() -> None:
    text = nodeconfig.init(Node(1), folder="/s/node1", store="/s/store", programs="/s/bin")

    assert not re.search(r"\$(folder|store|name|here|bin|address)\b(?<!\$folder)(?<!\$store)", text)
    done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_default_storage_class_waits_for_a_pod_and_lets_claims_grow() -> None:
    found = manifests.storage_class()

    assert found["volumeBindingMode"] == "WaitForFirstConsumer"
    assert found["allowVolumeExpansion"] is True
    assert found["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true"  # type: ignore[index]


def test_names_are_served_at_the_address_that_kubelet_tells_pods() -> None:
    items = yaml.safe_load(manifests.text("local/coredns:1"))["items"]
    service = next(item for item in items if item["kind"] == "Service")
    deployment = next(item for item in items if item["kind"] == "Deployment")

    assert service["spec"]["clusterIP"] == layout.DNS_ADDRESS
    assert service["spec"]["selector"] == deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == "Never"
