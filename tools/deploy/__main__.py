"""``python -m deploy``: build the images, give them to the nodes, install or upgrade the chart, wait.

Environment:
    KUBECONFIG       default: the local cluster's, when it exists
    DEPLOY_CONTEXT   context of that kubeconfig; default: its current one
    DEPLOY_REGISTRY  where a cluster that is not the local one pulls the images from; push them there first
    DEPLOY_VALUES    file with further values of the chart
    DEPLOY_NAMESPACE default: sqlitecluster-system
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
LOCAL: Final = ROOT / ".cluster" / "kubeconfig"
CHART: Final = ROOT / "charts" / "sqlitecluster"
RELEASE: Final = "sqlitecluster"
IMAGES: Final = ("sqlitecluster-operator", "sqlitecluster-sidecar", "sqlitecluster-sample")
WAIT_S: Final = 180


class CannotDeployError(Exception):
    """Something is missing; the text says what to do, in one line."""


@dataclass(frozen=True, slots=True)
class Target:
    """The cluster that is deployed to."""

    kubeconfig: Path
    context: str
    namespace: str

    @property
    def is_local(self) -> bool:
        """Whether it is the cluster that ``make cluster`` made."""
        return LOCAL.exists() and self.kubeconfig.resolve() == LOCAL.resolve() and not self.context

    def helm(self, *arguments: str) -> list[str]:
        """A command line for helm."""
        where = ["--kubeconfig", str(self.kubeconfig), "--namespace", self.namespace]
        context = ["--kube-context", self.context] if self.context else []
        return [program("helm"), *arguments, *where, *context]


def program(name: str) -> str:
    """A program that ``make cluster`` built, or one that is installed."""
    built = ROOT / ".cluster" / "bin" / name
    found = str(built) if built.exists() else shutil.which(name)
    if found is None:
        raise CannotDeployError(f"{name} is missing: `make cluster` builds it, or install it")
    return found


def target() -> Target:
    """Where to deploy to, by the environment."""
    told = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    kubeconfig = Path(told) if told else LOCAL if LOCAL.exists() else Path.home() / ".kube" / "config"
    if not kubeconfig.exists():
        raise CannotDeployError("there is no cluster: `make cluster` starts one, or set KUBECONFIG to yours")
    context = os.environ.get("DEPLOY_CONTEXT", "")
    return Target(kubeconfig, context, os.environ.get("DEPLOY_NAMESPACE") or "sqlitecluster-system")


def build_images() -> dict[str, str]:
    """Build what changed; the tag of each image, which is another one for another content."""
    run([sys.executable, "-m", "images", "archives"])
    return {name: _reference(name).rpartition(":")[2] for name in IMAGES}


def load(to: Target) -> None:
    """Give the images to the nodes of the local cluster."""
    archives = [str(ROOT / ".build" / "images" / f"{name}.tar") for name in IMAGES]
    run([sys.executable, "-m", "localcluster", "load", *archives])


def install(to: Target, tags: dict[str, str], *more: str) -> None:
    """Install the chart, or upgrade it; ``more``: further options of helm."""
    values = {"image.tag": tags["sqlitecluster-operator"], "sidecarImage.tag": tags["sqlitecluster-sidecar"]}
    registry = os.environ.get("DEPLOY_REGISTRY")
    if registry:
        values |= {"image.registry": registry, "sidecarImage.registry": registry}
    settings = [part for key, value in values.items() for part in ("--set-string", f"{key}={value}")]
    further = os.environ.get("DEPLOY_VALUES")
    files = ["--values", further] if further else []
    # The definition may be there already, applied by hand or from install.yaml.
    options = ["--install", "--take-ownership", "--force-conflicts", "--create-namespace"]
    options += ["--wait", "--timeout", f"{WAIT_S}s"]
    command = to.helm("upgrade", RELEASE, str(CHART), *options, *settings, *files, *more)
    try:
        run(command)
    except CannotDeployError:
        # Helm forces conflicts in an upgrade only; a first installation that met one left a release to upgrade.
        run(command)


def run(command: list[str]) -> None:
    """Run a command; its output is the user's to see."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tools")}
    done = subprocess.run(command, check=False, env=environment)
    if done.returncode:
        raise CannotDeployError(f"`{' '.join(command[:4])} …` failed with status {done.returncode}")


def main() -> int:
    """Deploy; returns the exit code."""
    started = time.monotonic()
    try:
        to = target()
        tags = build_images()
        if to.is_local:
            load(to)
        elif not os.environ.get("DEPLOY_REGISTRY"):
            print("deploy: this is not the local cluster, so its nodes must have the images (or set DEPLOY_REGISTRY)")
        install(to, tags)
    except CannotDeployError as error:
        print(f"deploy: {error}", file=sys.stderr)
        return 1
    print(f"deployed {RELEASE} into namespace {to.namespace} in {time.monotonic() - started:.0f} s")
    return 0


def _reference(name: str) -> str:
    return (ROOT / ".build" / "images" / f"{name}.reference").read_text().strip()


if __name__ == "__main__":
    sys.exit(main())
