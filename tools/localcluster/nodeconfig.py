"""What a node reads: configurations of containerd, CNI, kubelet and kube-proxy, and its first process.

Inside a node its own folder is ``/run/node``; every component is at its default path, so
these texts are the same for all nodes but for names and addresses. Pure: text only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from string import Template

from localcluster.layout import DNS_ADDRESS, DOMAIN, POD_NET, Node

HERE = "/run/node"
VOLUMES = f"{HERE}/volumes"
CNI_PROGRAMS = "/usr/lib/cni"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


def environment(inherited: Mapping[str, str]) -> dict[str, str]:
    """Of the control plane and of nodes: a dead connection is noticed quickly.

    They outlive whoever starts them, and with that its folder for temporary files.
    """
    quick = {"HTTP2_READ_IDLE_TIMEOUT_SECONDS": "3", "HTTP2_PING_TIMEOUT_SECONDS": "2"}
    return {name: value for name, value in inherited.items() if name != "TMPDIR"} | quick


def containerd(pause_image: str) -> str:
    """containerd.toml"""
    return f"""\
version = 2
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper",
]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause_image}"
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{CNI_PROGRAMS}"
  conf_dir = "{HERE}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
"""


def cni(node: Node) -> str:
    """A routed point-to-point link for each pod: Services work between pods of one node, too."""
    addresses = {
        "type": "host-local",
        "ranges": [[{"subnet": node.pod_net}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/run/cni-addresses",  # on the node's tmpfs: a loss of power leaks no address
    }
    plugin = {"type": "ptp", "ipMasq": False, "ipam": addresses}
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [plugin]})


def kubelet(node: Node, cgroup: str) -> str:
    """KubeletConfiguration"""
    return json.dumps(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": f"{HERE}/ca.crt"},
            },
            "authorization": {"mode": "Webhook"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroup}",
            "clusterDNS": [DNS_ADDRESS],
            "clusterDomain": DOMAIN,
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "failCgroupV1": False,
            "failSwapOn": False,
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            "makeIPTablesUtilChains": False,
            "maxPods": 200,
            "nodeLeaseDurationSeconds": 8,
            "nodeStatusUpdateFrequency": "2s",
            "resolvConf": f"{HERE}/resolv.conf",
            "serializeImagePulls": False,
            "tlsCertFile": f"{HERE}/server.crt",
            "tlsPrivateKeyFile": f"{HERE}/server.key",
        },
        indent=1,
    )


def proxy(node: Node) -> str:
    """KubeProxyConfiguration: nftables, and no sysctl is written."""
    return json.dumps(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": f"{HERE}/proxy.kubeconfig"},
            "clusterCIDR": POD_NET,
            "conntrack": {
                "maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
            },
            "hostnameOverride": node.name,
            "mode": "nftables",
        },
        indent=1,
    )  # fmt: skip


# Process number 1 of a node. Killing it is a loss of power: the kernel ends everything in
# its namespaces and drops every mount.
_INIT = Template("""\
set -u
mount --make-rshared /
# Copies of the machine's FUSE mounts would keep them alive here.
while read -r _ point kind _; do
    case $$kind in fuse*) umount -l "$$(printf %b "$$point")" ;; esac
done </proc/mounts
folder=$folder store=$store
mkdir -p /var/lib/containerd /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers
mount --bind "$$store" /var/lib/containerd
mount --bind "$$folder/kubelet" /var/lib/kubelet
mount --make-private /var/lib/kubelet
mount --make-shared /var/lib/kubelet
mount --bind "$$folder/cni-cache" /var/lib/cni
mount --bind "$$folder/pods" /var/log/pods
mount --bind "$$folder/containers" /var/log/containers
mount -t tmpfs -o mode=755 run /run
mkdir /run/node /run/lock && mount --bind "$$folder" /run/node
hostname $name

keep() { # NAME COMMAND...: run it for ever, with its log
    local log=$here/logs/$$1.log
    shift
    while :; do "$$@" >>"$$log" 2>&1; echo "ended with $$?" >>"$$log"; sleep 0.5; done
}
answers() { ctr version >/dev/null 2>&1; }

if [ -e $here/fresh ]; then
    # Containers of an earlier cluster: gone before kubelet may see them. Images stay.
    rm $here/fresh
    rm -rf /var/lib/containerd/io.containerd.grpc.v1.cri /var/lib/containerd/io.containerd.runtime.v2.task
    containerd --config $here/cleaning.toml >>$here/logs/containerd.log 2>&1 &
    cleaning=$$!
    until answers; do sleep 0.05; done
    ctr -n k8s.io containers ls -q | xargs -r ctr -n k8s.io containers rm
    for snapshot in $$(ctr -n k8s.io snapshots ls | awk '$$NF == "Active" {print $$1}'); do
        ctr -n k8s.io snapshots rm "$$snapshot"
    done
    while read -r reference archive; do
        [ -n "$$(ctr -n k8s.io images ls -q "name==$$reference")" ] || ctr -n k8s.io images import "$$archive"
    done <$here/images
    kill $$cleaning
    wait $$cleaning
fi
keep containerd containerd --config $here/containerd.toml &
until answers; do sleep 0.05; done
keep kubelet $bin/kubelet --config=$here/kubelet.json --kubeconfig=$here/kubelet.kubeconfig --node-ip=$address -v=2 &
keep proxy $bin/kube-proxy --config=$here/proxy.json &
while :; do wait -n; sleep 0.2; done
""")


def init(node: Node, *, folder: str, store: str, programs: str) -> str:
    """The shell program that is the node's first process."""
    return _INIT.substitute(folder=folder, store=store, name=node.name, address=node.address, here=HERE, bin=programs)


def files(node: Node, *, cgroup: str, pause_image: str, images: Mapping[str, str]) -> dict[str, str]:
    """All configuration files of a node, by name below its folder."""
    settings = containerd(pause_image)
    without_cri = settings.replace("disabled_plugins = [", 'disabled_plugins = ["io.containerd.grpc.v1.cri",')
    return {
        "containerd.toml": settings,
        "cleaning.toml": without_cri.partition('[plugins."')[0],
        "cni/10-pods.conflist": cni(node),
        "kubelet.json": kubelet(node, cgroup),
        "proxy.json": proxy(node),
        "images": "".join(f"{reference} {archive}\n" for reference, archive in images.items()),
        "resolv.conf": "",
        "fresh": "",
    }
