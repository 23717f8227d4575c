"""Long-living processes of the cluster: started detached, remembered by pid and start time, ended by id."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

STEP_S = 0.05


def wait_until(good: Callable[[], bool], limit_s: float, step_s: float = STEP_S) -> bool:
    """Look again and again; False when the limit passed first."""
    deadline = time.monotonic() + limit_s
    while not good():
        if time.monotonic() > deadline:
            return False
        time.sleep(step_s)
    return True


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return []


def alive(pid: int) -> bool:
    """True while a process runs; a zombie that nobody has reaped yet does not."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in "ZX"


def _started(pid: int) -> str:
    fields = _stat(pid)
    return fields[19] if fields else ""


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def is_first_of_namespace(pid: int) -> bool:
    """True for the process that is number 1 in a pid namespace of its own."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                numbers = line.split()[1:]
                return len(numbers) > 1 and numbers[-1] == "1"
    return False


def start(
    command: Sequence[str],
    *,
    log: Path,
    cgroups: Iterable[Path] = (),
    environment: Mapping[str, str] | None = None,
) -> int:
    """Start a process that outlives us, inside the given cgroups; returns its pid."""
    join = 'for group in $1; do echo $$ >"$group/cgroup.procs"; done; shift; exec "$@"'
    wrapped = ["sh", "-ec", join, "sh", " ".join(map(str, cgroups)), *command]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = subprocess.Popen(
            wrapped,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=dict(environment) if environment is not None else None,
        )
    process.returncode = 0  # it is not ours to wait for: no warning when the object goes
    return process.pid


def remember(folder: Path, name: str, pid: int) -> None:
    """Write down a process, so that a later command finds exactly this one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"{pid} {_started(pid)}\n")


def recall(folder: Path, name: str) -> int | None:
    """The pid of a remembered process if it still runs."""
    try:
        pid, _, started = (folder / name).read_text().strip().partition(" ")
    except OSError:
        return None
    return int(pid) if alive(int(pid)) and _started(int(pid)) == started else None


def send(pid: int, signum: signal.Signals) -> None:
    """Signal a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log."""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
