"""A client outside of the pods that writes through the ``-rw`` Service and notes what was acknowledged."""

from __future__ import annotations

import json
import signal
import subprocess
from types import TracebackType
from typing import Self

from support import kube, ledger
from support.lane import Run
from support.sampled import Sampled

PROGRAM = """
import http.client, json, sys, time, uuid
host, journal = sys.argv[1:]
with open(journal, "a", buffering=1) as file:
    while True:
        token = "rw-" + uuid.uuid4().hex
        while True:
            connection, failure = None, ""
            try:
                connection = http.client.HTTPConnection(host, 8080, timeout=0.5)
                connection.request("POST", "/rows", json.dumps({"token": token}))
                answer = connection.getresponse()
                body = json.loads(answer.read())
                if answer.status == 201:
                    file.write(json.dumps({"at": time.time(), "id": body["id"], "token": token}) + chr(10))
                    break
                failure = f"{answer.status} {body}"
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = repr(error)
            finally:
                if connection is not None:
                    connection.close()
            if failure:
                file.write(json.dumps({"at": time.time(), "failure": failure}) + chr(10))
            time.sleep(0.02)
        time.sleep(0.1)
"""


class RwClient:
    """About ten rows a second, each on a connection of its own."""

    def __init__(self, run: Run, sampled: Sampled) -> None:
        self._journal = run.new_folder("rw") / "rw.json"
        host = f"{sampled.name}-rw.{sampled.namespace}.svc.cluster.local"
        self._command = kube.cluster_object().client_command(["python3", "-c", PROGRAM, host, str(self._journal)])
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, start_new_session=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(10)

    def _entries(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self._journal.read_text().splitlines() if line.endswith("}")]

    def _acknowledged(self) -> list[dict[str, object]]:
        return [entry for entry in self._entries() if "token" in entry]

    def longest_gap(self) -> tuple[float, str]:
        """Seconds between two acknowledged rows, at most; and what the client met in that time."""
        times = [float(str(entry["at"])) for entry in self._acknowledged()]
        assert len(times) > 2, "no row was acknowledged through -rw"
        seconds, end = ledger.longest_silence(times)
        failures = [e for e in self._entries() if "failure" in e and end - seconds <= float(str(e["at"])) <= end]
        return seconds, ", ".join(f"{float(str(e['at'])) - end:.2f} s: {e['failure']}" for e in failures)

    def lost(self, rows: dict[str, list[int]]) -> list[str]:
        """Tokens that were acknowledged and are not there."""
        return [str(e["token"]) for e in self._acknowledged() if e["id"] not in rows.get(str(e["token"]), ())]
