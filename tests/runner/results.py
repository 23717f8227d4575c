"""What was shown, on which machine and for which code: ``docs/results/<lane>.json``.

Counts of a lane add up as long as the product's code is the same: the tree of ``sidecar``, and for lanes
with a cluster all else that is deployed there. With other code they begin again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from runner.jobs import Outcome
from runner.plan import ROOT, Job

FOLDER = ROOT / "docs" / "results"
DEPLOYED = ("sidecar", "operator", "charts", "crds", "demo/sample")
"""What lanes with a cluster run."""


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def code_id(job: Job) -> str:
    """Identity of the code that a lane shows something about."""
    if not job.cluster:
        return _git("rev-parse", "HEAD:sidecar")
    trees = [_git("rev-parse", f"HEAD:{folder}") for folder in DEPLOYED]
    return hashlib.sha1("\n".join(trees).encode(), usedforsecurity=False).hexdigest()


def machine() -> dict[str, object]:
    """What the figures depend on."""
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "kernel": platform.release(),
        "memoryMiB": int(memory.split()[1]) // 1024,
        "python": platform.python_version(),
    }


def path_of(job: Job) -> Path:
    """The file of a lane."""
    return FOLDER / f"{job.name}.json"


def read(job: Job) -> dict[str, Any]:
    """What is known for the present code."""
    try:
        found: dict[str, Any] = json.loads(path_of(job).read_text())
    except (OSError, ValueError):
        found = {}
    code = code_id(job)
    if found.get("code") != code:
        return {"lane": job.name, "release": job.release, "done": 0, "violations": 0, "code": code, "runs": []}
    return found


def add(job: Job, outcome: Outcome) -> dict[str, Any]:
    """Add one run to a lane's file."""
    known = read(job)
    run = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": _git("rev-parse", "--short=12", "HEAD"),
        "count": outcome.done,
        "violations": outcome.violations,
        "end": outcome.end.value,
        "seconds": round(outcome.seconds),
    }
    known["unit"] = outcome.unit
    known["done"] += outcome.done
    known["violations"] += outcome.violations + (not outcome.passed and not outcome.violations)
    known["machine"] = machine()
    known["runs"] = [*known["runs"], run][-50:]
    FOLDER.mkdir(parents=True, exist_ok=True)
    path_of(job).write_text(json.dumps(known, indent=2) + "\n")
    return known
