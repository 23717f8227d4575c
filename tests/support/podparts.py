"""Parts of a pod on the local cluster, as this machine sees them: processes of containers, mounts, volumes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from support import kube
from support.sampled import Sampled

KUBELET = "/var/lib/kubelet/pods"
DRAIN_LIMIT = "120s"


def uid(sampled: Sampled, pod: str) -> str:
    """A pod's uid; another one after the pod was made anew."""
    return sampled.kubectl("get", "pod", pod, "-o", "jsonpath={.metadata.uid}").strip()


def container(sampled: Sampled, pod: str, name: str) -> dict[str, object]:
    """The status of a container, init containers too."""
    found = kube.get(f"pod/{pod}", sampled.namespace)["status"]
    statuses = [*found.get("initContainerStatuses", []), *found.get("containerStatuses", [])]
    return next((dict(one) for one in statuses if one["name"] == name), {"restartCount": -1, "state": "unknown"})


def restarts(sampled: Sampled, pod: str, name: str) -> int:
    """How often a container was started again."""
    return int(str(container(sampled, pod, name)["restartCount"]))


def worker_pid(sampled: Sampled, pod: str, name: str) -> int:
    """A process of a sidecar by its short name, such as ``sqlc-mount``."""
    return next(pid for pid in container_pids(sampled.sidecar_pid(pod)) if _comm(pid) == name)


def container_pids(first: int) -> list[int]:
    """All processes that share a process's pid namespace: those of its container."""
    place = os.readlink(f"/proc/{first}/ns/pid")
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{entry}/ns/pid") == place:
                    found.append(int(entry))
    return found


def programs(pod_uid: str) -> list[int]:
    """Processes of the sample program in a pod; the API learns of a container's end only when the whole pod ended."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            is_one = entry.name.isdigit() and b"sample.py" in (entry / "cmdline").read_bytes()
            if is_one and pod_uid in (entry / "mountinfo").read_text():
                found.append(int(entry.name))
    return found


def kill_container(first: int) -> None:
    """SIGKILL every process of a container, as the kernel does when its memory is at an end."""
    for pid in container_pids(first):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_pod(sampled: Sampled, pod: str) -> float:
    """End a pod without a word: its sidecar and its program stand still, the pod is deleted by force, they are killed.

    Nothing of it does anything after the first step, so neither the kubelet's SIGTERM nor a container that it would
    start again matters. The guard lives: without it a dead mount would stay on the node for ever.
    Returns the moment of the first step.
    """
    pod_uid, supervisor = uid(sampled, pod), sampled.sidecar_pid(pod)
    moment = time.time()
    os.kill(supervisor, signal.SIGSTOP)
    stopped: list[int] = [supervisor]
    while more := [pid for pid in _working(supervisor, pod_uid) if pid not in stopped]:
        for pid in more:  # one that was just being started is found the next time
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        stopped += more
    try:
        sampled.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    return moment


def _working(supervisor: int, pod_uid: str) -> list[int]:
    """The processes of a pod's sidecar and of its program."""
    found = container_pids(supervisor)
    for program in programs(pod_uid):
        with contextlib.suppress(FileNotFoundError):
            found += container_pids(program)
    return found


@contextlib.contextmanager
def drained(sampled: Sampled, node: str) -> Iterator[None]:
    """A node is drained of a cluster's pods, and takes pods again at the end."""
    options = ("--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={DRAIN_LIMIT}")
    try:
        kube.kubectl("drain", node, *options, f"--pod-selector={sampled.selector}", limit_s=150)
        yield
    finally:
        kube.kubectl("uncordon", node)


def on_node(node: str, script: str, *, limit_s: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a shell script on a node, as root, where the kubelet is."""
    command = kube.cluster_object().node_command(node, ["sh", "-c", script])
    return subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)


def mounts_of(node: str, pod_uid: str) -> int:
    """How many of our mounts a pod has on its node."""
    done = on_node(node, f"grep {pod_uid} /proc/self/mountinfo | grep -c fuse.sqlitecluster")
    return int(done.stdout.strip() or 0)


def volume_dir(pod_uid: str) -> str:
    """The volume that the databases are mounted in, on the node."""
    return f"{KUBELET}/{pod_uid}/volumes/kubernetes.io~empty-dir/sqlite-mount"


def data_dir(sampled: Sampled, pod: str) -> Path:
    """A pod's volume as this machine sees it, past the pod."""
    volume = sampled.kubectl("get", "pvc", f"data-{pod}", "-o", "jsonpath={.spec.volumeName}").strip()
    return next((kube.cluster_object().layout.state / "run" / "nodes").glob(f"*/volumes/{volume}"))


def database_files(sampled: Sampled, pod: str) -> dict[str, Path]:
    """Database images on a pod's volume."""
    return {path.parent.name: path for path in data_dir(sampled, pod).glob("dbs/*/database")}


def _comm(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""
