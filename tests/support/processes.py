"""Processes and mounts of a test: starting them tied to us, and leaving nothing behind.

Rule: only processes that a test started are ended, by their id. What may be left of
one is found by the test's own folder in its command line or as its mount point.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PR_SET_PDEATHSIG = 1
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def root() -> Path:
    """The repository."""
    return Path(__file__).resolve().parents[2]


def environment(**more: str) -> dict[str, str]:
    """The environment of programs under test: ours, with the packages of this checkout."""
    paths = [str(root() / part) for part in ("sidecar", "operator", "tests", "tools")]
    old = os.environ.get("PYTHONPATH", "")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*paths, old] if old else paths), **more}


def cli(*arguments: str) -> list[str]:
    """The command ``sqlitecluster`` with arguments, as this interpreter runs it."""
    script = Path(sys.executable).with_name("sqlitecluster")
    if script.exists():
        return [str(script), *arguments]
    return [sys.executable, "-c", "import sys; from sqlitecluster.cli.main import main; sys.exit(main())", *arguments]


def start(command: Sequence[str], *, log: Path, env: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process in its own session, that is asked to end when we die; output goes to ``log``."""
    with log.open("ab") as out:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=env or environment(),
            start_new_session=True,
            preexec_fn=_tie_to_parent,
        )


def _tie_to_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def wait_until(good: Callable[[], bool], *, limit_s: float, step_s: float = 0.05) -> bool:
    """Look again and again until ``good()``; False when the limit passed first."""
    deadline = time.monotonic() + limit_s
    while not good():
        if time.monotonic() > deadline:
            return False
        time.sleep(step_s)
    return True


def alive(pid: int) -> bool:
    """True while a process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def kill(pid: int) -> None:
    """SIGKILL a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    """SIGSTOP a process that may be gone already."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)


def end(process: subprocess.Popen[bytes], *, limit_s: float = 60.0) -> bool:
    """Ask a process to end, kill it after the limit; True when it went by itself."""
    if process.poll() is not None:
        return True
    process.terminate()
    try:
        process.wait(limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(30)
        return False
    return True


def mounts_under(folder: Path) -> list[Path]:
    """Mount points at or below a folder, deepest first."""
    prefix = str(folder.resolve())
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point == prefix or point.startswith(prefix + "/"):
            found.append(Path(point))
    return sorted(found, key=lambda p: len(p.parts), reverse=True)


def unmount(point: Path) -> None:
    """Detach a mount at once, also a dead one."""
    _libc.umount2(os.fsencode(point), MNT_DETACH)


def processes_of(folder: Path) -> list[int]:
    """Processes, other than this one, whose command line names something below a folder."""
    needle = os.fsencode(str(folder.resolve()))
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if needle in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def clear(folder: Path) -> list[str]:
    """End processes and mounts that a test left behind below its folder; says which."""
    said = []
    for pid in processes_of(folder):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            said.append(f"killed left-over process {pid}")
    for point in mounts_under(folder):
        unmount(point)
        said.append(f"unmounted left-over {point}")
    for folder_of_mount in folder.glob("**/mnt"):
        subprocess.run(["chattr", "-i", str(folder_of_mount)], capture_output=True)  # left by nodes that were killed
    return said


def pss_kib(pid: int) -> int:
    """Proportional set size of a process in KiB; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def children_of(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo.extend(parents.get(found[-1], []))
    return found
