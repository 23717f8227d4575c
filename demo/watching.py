"""What is seen while the demo plays: rows that were acknowledged, pods, roles; one line of it.

Rows come from the client's log, which is followed; pods and roles are asked for twice a second.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

from demo.place import Place

from localcluster import ClusterError

LOOK_S = 0.5
ROLE = "sqlitecluster.dev/role"


@dataclass(frozen=True, slots=True)
class Row:
    """One acknowledged row."""

    at: float
    token: str
    pod: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which nothing was acknowledged."""

    seconds: float
    before: str
    after: str


def parse(line: str) -> Row | None:
    """A line of the client's log."""
    try:
        found = json.loads(line)
        return Row(float(found["at"]), str(found["token"]), str(found["pod"]))
    except (ValueError, KeyError, TypeError):
        return None


def longest_gap(rows: Sequence[Row], since: float) -> Gap | None:
    """The longest silence that ended after ``since``; None when nothing was acknowledged since."""
    around = [(one, two) for one, two in pairwise(rows) if two.at > since]
    if not around:
        return None
    one, two = max(around, key=lambda pair: pair[1].at - pair[0].at)
    return Gap(two.at - one.at, one.pod, two.pod)


def cell(pod: Mapping[str, Any] | None, nodes_down: frozenset[str] = frozenset()) -> str:
    """A pod in one word or two."""
    if pod is None:
        return "gone"
    if pod["metadata"].get("deletionTimestamp"):
        return "ending"
    if pod["spec"].get("nodeName") in nodes_down:
        return "node is off"
    conditions = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions") or ()}
    role = pod["metadata"].get("labels", {}).get(ROLE, "")
    if conditions.get("Ready") == "True":
        return str(role) or "ready"
    return f"({role})" if role else "starting"


def table_line(elapsed: float, cells: Sequence[str], rows: int, rate: float, silent: float) -> str:
    """A line of the live table."""
    pods = "  ".join(f"{one:<11}" for one in cells)
    quiet = f"no write for {silent:.1f} s" if silent > 0.6 else ""
    return f"    {elapsed:>5.1f} s  {pods}  {rows:>6,} rows  {rate:>4.0f}/s  {quiet:<22}"


@dataclass
class Watching:
    """Follows one cluster in threads of its own, until it is closed."""

    place: Place
    namespace: str
    name: str
    instances: int
    rows: list[Row] = field(default_factory=list)
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    nodes_down: frozenset[str] = frozenset()
    _ending: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _log: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        for work in (self._follow_rows, self._follow_pods):
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        if self._log is not None:
            self._log.kill()
        for thread in self._threads:
            thread.join(20)

    def names(self) -> list[str]:
        """The pods that there should be."""
        return [f"{self.name}-{number}" for number in range(self.instances)]

    def line(self, elapsed: float, now: float) -> str:
        """The present, as a line of the table."""
        cells = [cell(self.pods.get(pod), self.nodes_down) for pod in self.names()]
        rows = list(self.rows)
        recent = sum(1 for row in rows[-200:] if now - row.at <= 1.0)
        return table_line(elapsed, cells, len(rows), recent, now - rows[-1].at if rows else 0.0)

    def _follow_rows(self) -> None:
        seen: set[str] = set()
        while not self._ending.is_set():
            command = [*self.place.command, "--namespace", self.namespace, "logs", "--follow", "pod/client"]
            self._log = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
            )
            assert self._log.stdout is not None
            for line in self._log.stdout:
                row = parse(line)
                if row is not None and row.token not in seen:
                    seen.add(row.token)
                    self.rows.append(row)
            self._log.wait()
            self._ending.wait(0.5)

    def _follow_pods(self) -> None:
        selector = f"sqlitecluster.dev/cluster={self.name}"
        while not self._ending.is_set():
            try:
                found = self.place.get("--namespace", self.namespace, "pods", "--selector", selector)
                self.pods = {pod["metadata"]["name"]: pod for pod in found["items"]}
            except (ClusterError, ValueError):
                pass  # asked again in a moment
            self._ending.wait(LOOK_S)
