"""Running one job: its output is streamed and kept, its time is limited, nothing of it stays behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from runner.plan import ROOT, Job
from support import processes
from support.lane import EXIT_NOT_STARTED, FOLDER_VARIABLE

TAIL_LINES = 60
VIOLATION = re.compile(r"^\[[\w-]+\] VIOLATION: ")
SUMMARY_CHARS = 1500
QUIET_S = 20.0  # a job that says nothing for so long is mentioned
LAST_LINE = re.compile(
    r"^(?P<lane>[\w-]+): (?P<done>\d+) of (?P<wanted>\d+) (?P<unit>.+), (?P<violations>\d+) violations$"
)


class End(Enum):
    """How a job ended."""

    PASSED = "passed"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    NOT_STARTED = "could not start"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a job did."""

    job: Job
    end: End
    seconds: float
    done: int = 0
    violations: int = 0
    unit: str = ""
    again: bool = False

    @property
    def passed(self) -> bool:
        return self.end is End.PASSED

    @property
    def can_run_again(self) -> bool:
        """Only what the machine may have caused is run a second time; a violation never."""
        return self.job.kind == "lane" and self.end in (End.TIMED_OUT, End.NOT_STARTED) and not self.violations


def say(text: str) -> None:
    """A line for people, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def run_job(job: Job, logs: Path) -> Outcome:
    """Run a job, a second time if it only timed out or could not start; its log's end is shown if it failed."""
    outcome = _run_once(job, logs)
    if outcome.can_run_again:
        say(f"{job.name}: {outcome.end.value}; running it once more")
        _show_tail(log_file(job, logs))
        first = outcome.seconds
        outcome = _run_once(job, logs)
        outcome = Outcome(
            job=job, end=outcome.end, seconds=first + outcome.seconds, done=outcome.done,
            violations=outcome.violations, unit=outcome.unit, again=True,
        )  # fmt: skip
    if not outcome.passed:
        say(f"{job.name}: {outcome.end.value.upper()}; the end of its log:")
        _show_tail(log_file(job, logs))
    more = " (ran again after a time-out)" if outcome.again else ""
    say(f"{job.name}: {outcome.end.value} in {outcome.seconds:.0f} s{more}")
    return outcome


def log_file(job: Job, logs: Path) -> Path:
    """Where a job's whole output is."""
    return logs / f"{job.name.replace(' ', '-')}.log"


def what_failed(job: Job, logs: Path) -> list[str]:
    """The violations in a job's log, or what pytest and tools say at its end: what the verdict repeats."""
    log = log_file(job, logs)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    first = [number for number, line in enumerate(lines) if VIOLATION.match(line)]
    found = ["\n".join(lines[number : number + 4])[:SUMMARY_CHARS] for number in first]
    return found or [line for line in lines if line.startswith(("FAILED ", "ERROR "))] or lines[-3:]


def _run_once(job: Job, logs: Path) -> Outcome:
    say(f"{job.name}: started")
    began = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix=f"sqlitecluster-{job.name.replace(' ', '-')}-"))
    folder.chmod(0o755)  # nodes under test may run as another user
    env = processes.environment(**{FOLDER_VARIABLE: str(folder), "PYTHONUNBUFFERED": "1", "TMPDIR": str(folder)})
    try:
        try:
            process = subprocess.Popen(
                job.command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            say(f"{job.name}: {error}")
            return Outcome(job=job, end=End.FAILED, seconds=0.0)
        with log_file(job, logs).open("a") as log:
            timed_out = _follow(process, job, log)
    finally:
        for line in processes.clear(folder):
            say(f"{job.name}: {line}")
        shutil.rmtree(folder, ignore_errors=True)
    return _judge(job, process.returncode, timed_out, log_file(job, logs), time.monotonic() - began)


def _follow(process: subprocess.Popen[str], job: Job, log: IO[str]) -> bool:
    """Copy the output until the job ends; True when it had to be killed at its limit."""
    assert process.stdout is not None
    last = [time.monotonic()]
    reader = threading.Thread(target=_copy, args=(process.stdout, job, log, last), daemon=True)
    reader.start()
    began = time.monotonic()
    killed = False
    try:
        while process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - last[0] > QUIET_S:
                last[0] = time.monotonic()
                say(f"{job.name}: still running, {time.monotonic() - began:.0f} s")
            if time.monotonic() - began > job.limit_s:
                killed = True
                _kill_group(process)
    except BaseException:
        _kill_group(process)
        raise
    reader.join(10)
    return killed


def _copy(source: IO[str], job: Job, log: IO[str], last: list[float]) -> None:
    for line in source:
        last[0] = time.monotonic()
        log.write(line)
        log.flush()
        if job.kind == "lane":
            say(line.rstrip())


def _kill_group(process: subprocess.Popen[str]) -> None:
    """First ask, so that the job can unmount; then kill its whole process group."""
    for signum, wait_s in ((signal.SIGTERM, 45.0), (signal.SIGKILL, 15.0)):
        try:
            os.killpg(process.pid, signum)
            process.wait(wait_s)
            return
        except ProcessLookupError:
            process.wait(15)
            return
        except subprocess.TimeoutExpired:
            continue


def _judge(job: Job, code: int, timed_out: bool, log: Path, seconds: float) -> Outcome:
    found = _last_line(log) if job.kind == "lane" else None
    done = int(found["done"]) if found else 0
    violations = int(found["violations"]) if found else 0
    unit = found["unit"] if found else ""
    if timed_out:
        end = End.TIMED_OUT
    elif code == EXIT_NOT_STARTED:
        end = End.NOT_STARTED
    elif code != 0 or (job.kind == "lane" and (not found or violations or done < int(found["wanted"]))):
        end = End.FAILED
    else:
        end = End.PASSED
    return Outcome(job=job, end=end, seconds=seconds, done=done, violations=violations, unit=unit)


def _last_line(log: Path) -> re.Match[str] | None:
    for line in reversed(log.read_text(errors="replace").splitlines()):
        found = LAST_LINE.match(line)
        if found:
            return found
    return None


def _show_tail(log: Path) -> None:
    for line in log.read_text(errors="replace").splitlines()[-TAIL_LINES:]:
        print(f"    | {line}", flush=True)
