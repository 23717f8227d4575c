"""Where the demo plays: the local cluster of this machine, or a cluster that ``DEMO_CONTEXT`` names.

Whatever the demo makes it removes again: the cluster if it started it, the operator and its
definitions if they were not there before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy import __main__ as deploy
from localcluster import Cluster, ClusterError

CRD = "sqliteclusters.sqlitecluster.dev"
LIMIT_S = 60.0


class CannotPlayError(Exception):
    """This machine or cluster cannot show the demo; one line, with what to do."""


class Place:
    """A cluster, and what the demo did to it."""

    def __init__(self, context: str) -> None:
        self.context = context
        self.local = None if context else Cluster()
        self._started = False
        self._installed = False
        self._defined = False
        self._to: deploy.Target | None = None

    # Life.

    def prepare(self) -> None:
        """A cluster that answers; started here when it is the local one and does not run."""
        if self.local is None:
            os.environ["DEPLOY_CONTEXT"] = self.context
            os.environ.setdefault("KUBECONFIG", str(Path.home() / ".kube" / "config"))
        else:
            os.environ["KUBECONFIG"] = str(self.local.kubeconfig)
            os.environ.pop("DEPLOY_CONTEXT", None)
            self._start(self.local)
        try:
            self._to = deploy.target()
            self.kubectl("get", "--raw", "/readyz")
        except (deploy.CannotDeployError, ClusterError) as error:
            raise CannotPlayError(f"{error}".strip()) from None

    def _start(self, local: Cluster) -> None:
        if os.geteuid() != 0 or not Path("/dev/fuse").exists():
            lacking = "root" if os.geteuid() != 0 else "/dev/fuse"
            raise CannotPlayError(
                f"a cluster on this machine needs {lacking}; on one of yours: make demo DEMO_CONTEXT=<kubectl context>"
            )
        self._started = not local.is_up()
        if self._started:
            install = [str(deploy.ROOT / "tools" / "install-cluster"), sys.prefix]
            if subprocess.run(install, cwd=deploy.ROOT, check=False).returncode:
                raise CannotPlayError("what a local cluster needs could not be installed; see above")
        try:
            local.up()
        except ClusterError as error:
            raise CannotPlayError(str(error)) from None

    def deploy(self) -> dict[str, str]:
        """The operator as of this checkout, as ``make deploy`` brings it; the tags of the images."""
        assert self._to is not None
        known = self._quietly(self._to.helm("status", deploy.RELEASE)) or (self.local is None and self._served())
        self._defined = not self._says("get", "crd", CRD)
        try:
            tags = deploy.build_images()
            if self.local is not None:
                deploy.load(self._to)
            if self.local is not None or not known:
                self._installed = not known
                deploy.install(self._to, tags, "--hide-notes")
        except deploy.CannotDeployError as error:
            raise CannotPlayError(str(error)) from None
        return tags

    def _served(self) -> bool:
        """Whether somebody's operator runs in the cluster: a second one would be in its way."""
        which = ("--all-namespaces", "--selector", "app.kubernetes.io/name=sqlitecluster-operator")
        return bool(self.get("deployments", *which)["items"])

    def leave(self) -> None:
        """Undo what was done, in reverse; says what it could not undo."""
        if self.local is not None and self._started:
            self.local.down()
            return
        if self._installed and self._to is not None:
            self._quietly(self._to.helm("uninstall", deploy.RELEASE, "--wait"))
            if self._defined:
                self._says("delete", "crd", CRD, "--ignore-not-found")
            self._says("delete", "namespace", self._to.namespace, "--ignore-not-found")

    # Asking.

    @property
    def command(self) -> list[str]:
        """How to call kubectl."""
        assert self._to is not None
        context = ["--context", self.context] if self.context else []
        return [deploy.program("kubectl"), "--kubeconfig", str(self._to.kubeconfig), *context]

    @property
    def operator_namespace(self) -> str:
        """Where the operator runs."""
        assert self._to is not None
        return self._to.namespace

    def kubectl(self, *arguments: str, text: str | None = None, limit_s: float = LIMIT_S) -> str:
        """Run kubectl; its output.

        Raises:
            ClusterError: it said no, or nothing in time.
        """
        try:
            done = subprocess.run(
                [*self.command, *arguments], input=text, capture_output=True, text=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise ClusterError(f"no answer within {limit_s:.0f} s: kubectl {' '.join(arguments[:4])}") from None
        if done.returncode:
            raise ClusterError(done.stderr.strip() or done.stdout.strip())
        return done.stdout

    def get(self, *what: str) -> dict[str, Any]:
        """Objects, parsed."""
        found = json.loads(self.kubectl("get", *what, "-o", "json", limit_s=15))
        assert isinstance(found, dict)
        return found

    def _says(self, *arguments: str) -> bool:
        try:
            self.kubectl(*arguments, limit_s=120)
        except ClusterError:
            return False
        return True

    def _quietly(self, command: Sequence[str]) -> bool:
        done = subprocess.run(command, capture_output=True, timeout=180, check=False)
        return done.returncode == 0
