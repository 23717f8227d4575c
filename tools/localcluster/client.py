"""Ways to speak with the cluster: kubectl on the machine, and a network place beside the nodes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence

from localcluster import network
from localcluster.errors import ClusterError
from localcluster.layout import DNS_ADDRESS, DOMAIN, Layout

RESOLVER = f"nameserver {DNS_ADDRESS}\nsearch default.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5 timeout:2\n"
WITH_RESOLVER = 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"'


class Client:
    """What speaks to one cluster."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def kubectl(self, *arguments: str, text: str | None = None, limit_s: float = 60.0) -> str:
        """Run kubectl; its output, or an error with its words."""
        command = [str(self._layout.bin / "kubectl"), f"--kubeconfig={self._layout.kubeconfig}", *arguments]
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            raise ClusterError(f"kubectl {' '.join(arguments)}: no answer in {limit_s:.0f} s") from None
        if done.returncode:
            raise ClusterError(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def command(self, argv: Sequence[str]) -> list[str]:
        """A command line in the client's network, with the cluster's names."""
        resolver = self._layout.run / "resolv.conf"
        if not resolver.exists():
            resolver.write_text(RESOLVER)
        shell = ["unshare", "--mount", "sh", "-ec", WITH_RESOLVER, "sh", str(resolver)]
        return [*network.inside(self._layout, "client"), *shell, *argv]

    def ready_nodes(self) -> set[str]:
        """Names of the nodes that are Ready; none while the API does not answer."""
        try:
            nodes = json.loads(self.kubectl("get", "nodes", "-o", "json", "--request-timeout=5s", limit_s=15))
        except ClusterError:
            return set()
        return {
            node["metadata"]["name"]
            for node in nodes["items"]
            for condition in node.get("status", {}).get("conditions", [])
            if condition["type"] == "Ready" and condition["status"] == "True"
        }
