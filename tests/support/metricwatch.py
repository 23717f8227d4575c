"""Samples the metrics of a cluster's pods while something goes on, from a process beside the nodes.

with MetricWatch(run, sampled) as watch:
    ...
watch.check(certificates=3, lag_max_s=2.5)
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlitecluster_operator import names
from support import kube, ledger, processes
from support.lane import Run
from support.sampled import Sampled

STEP_S = 0.5
SEEN = ("is_primary", "connected", "lag_seconds", "certificate_end_seconds", "stream_connects_total")
_LINE = re.compile(r"^sqlitecluster_(\w+)(?:\{[^}]*\})? ([0-9.eE+-]+)$", re.MULTILINE)

Sample = dict[str, float]
"""Metrics of one pod at one moment, by their names without the prefix; absent ones are absent."""


class MetricWatch:
    """About two samples a second of each pod; pods keep their addresses meanwhile."""

    def __init__(self, run: Run, sampled: Sampled) -> None:
        self._journal = run.new_folder("metrics") / "metrics.json"
        self._log = self._journal.with_name("log")
        pods = sampled.pod_objects()
        addresses = [f"{pod['metadata']['name']}={pod['status']['podIP']}" for pod in pods]
        argv = [sys.executable, "-m", "support.metricwatch", str(self._journal), *addresses]
        self._command = kube.cluster_object().client_command(argv)
        self._pods = [pod["metadata"]["name"] for pod in pods]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = processes.start(self._command, log=self._log)
        assert processes.wait_until(self._journal.exists, limit_s=30), self._log.read_text()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            processes.end(self._process)

    def summary(self) -> str:
        """What a person wants to know."""
        lags = [one["lag_seconds"] for pod in self._pods for one in self._of(pod) if "lag_seconds" in one]
        counts = [self._certificates(pod) for pod in self._pods]
        p50, highest = ledger.percentile(lags, 0.5), max(lags, default=0.0)
        return f"certificates {counts}, lag p50 {p50 * 1000:.0f} ms, at most {highest * 1000:.0f} ms"

    def check(self, *, certificates: int, lag_max_s: float) -> None:
        """Whether every pod answered, replicas stayed connected and near, and all had new certificates.

        Raises:
            AssertionError: with the pod and what it did.
        """
        for pod in self._pods:
            samples = list(self._of(pod))
            assert samples and not any("silent" in one for one in samples), f"{pod} did not answer: {samples[-3:]}"
            apart = [one for one in samples if not one["connected"]]
            assert not apart, f"{pod} was not connected in {len(apart)} of {len(samples)} samples: {apart[:2]}"
            lag = max((one.get("lag_seconds", 0.0) for one in samples), default=0.0)
            assert lag <= lag_max_s, f"{pod} lagged {lag:.1f} s"
            had = self._certificates(pod)
            assert had >= certificates, f"{pod} had {had} certificates, at least {certificates} were due"

    def _certificates(self, pod: str) -> int:
        return len({one.get("certificate_end_seconds") for one in self._of(pod)})

    def _of(self, pod: str) -> Iterator[Sample]:
        for line in self._journal.read_text().splitlines():
            if line.endswith("}"):
                found = json.loads(line)
                if found.pop("pod") == pod:
                    yield found


def read(address: str) -> Sample:
    """The metrics of a pod; only ``silent`` when it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{address}:{names.PORT_METRICS}/metrics", timeout=5) as answer:
            text = answer.read(1 << 20).decode()
    except OSError:
        return {"silent": 1.0}
    return {name: float(value) for name, value in _LINE.findall(text) if name in SEEN}


def main() -> None:
    """Sample until the end of this process."""
    parser = argparse.ArgumentParser(prog="python -m support.metricwatch")
    parser.add_argument("journal", type=Path)
    parser.add_argument("pods", nargs="+", help="NAME=ADDRESS")
    options = parser.parse_args()
    with options.journal.open("a", buffering=1) as file:
        while True:
            for pair in options.pods:
                name, _, address = pair.partition("=")
                file.write(json.dumps({"pod": name, "at": time.time(), **read(address)}) + "\n")
            time.sleep(STEP_S)


if __name__ == "__main__":
    main()
