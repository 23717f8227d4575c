"""What there is to run: lanes from ``tests/budget.toml``, unit groups from ``tests/unit``, static checks."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
UNIT_LIMIT_S = 900.0
STATIC_LIMIT_S = 600.0
NEEDS_MOUNT = ("mounted",)  # unit groups that the quick part leaves out


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One thing to run; it passes or fails as a whole."""

    name: str
    kind: str  # "lane", "unit" or "static"
    command: tuple[str, ...]
    limit_s: float
    budget: int = 0
    release: int = 0
    cluster: bool = False  # uses the local Kubernetes cluster that such lanes share

    def with_count(self, count: int, done: int = 0) -> Job:
        """The same lane with another count. ``done``: so many were done before; lanes of named cases go on there."""
        at = self.command.index("--count") + 1
        before = ("--skip", str(done)) if done else ()
        command = (*self.command[:at], str(count), *before, *_unseeded(self.command[at + 1 :]))
        scale = max(1.0, count / max(1, self.budget))
        return replace(self, command=command, limit_s=self.limit_s * scale, budget=count)


def _unseeded(arguments: tuple[str, ...]) -> tuple[str, ...]:
    """Without the seed of the tests: another count draws its own."""
    if "--seed" not in arguments:
        return arguments
    at = arguments.index("--seed")
    return (*arguments[:at], *arguments[at + 2 :])


def lanes() -> list[Job]:
    """All lanes, in the order of the file."""
    table = tomllib.loads((TESTS / "budget.toml").read_text())["lane"]
    return [_lane(name, row) for name, row in table.items()]


def _lane(name: str, row: dict[str, object]) -> Job:
    budget, release, limit = row["budget"], row["release"], row["limit_s"]
    arguments = row.get("arguments", [])
    assert isinstance(budget, int) and isinstance(release, int) and isinstance(limit, int | float), name
    assert isinstance(arguments, list), name
    module = f"lanes.{row.get('module', name)}"
    seed = ("--seed", str(row["seed"])) if "seed" in row else ()
    command = (sys.executable, "-u", "-m", module, "--count", str(budget), *map(str, arguments), *seed)
    return Job(
        name=name,
        kind="lane",
        command=command,
        limit_s=float(limit),
        budget=budget,
        release=release,
        cluster=bool(row.get("cluster", False)),
    )


def replay(text: str) -> Job:
    """One run of a lane again, from its seed: ``LANE:SEED`` as violations print it.

    Raises:
        ValueError: it is not of this form, or there is no such lane.
    """
    name, colon, seed = text.partition(":")
    found = {job.name: job for job in lanes()}
    if not (colon and seed.isdecimal()):
        raise ValueError(f"{text!r} is not LANE:SEED, such as nemesis:17")
    if name not in found:
        raise ValueError(f"there is no lane {name!r}; there are {', '.join(found)}")
    job = found[name].with_count(1)
    return replace(job, command=(*job.command, "--seed", seed))


def unit_groups(*, quick: bool = False) -> list[Job]:
    """One group for each folder of tests/unit that holds tests."""
    groups = []
    for folder in sorted((TESTS / "unit").iterdir()):
        if folder.is_dir() and any(folder.rglob("test_*.py")) and not (quick and folder.name in NEEDS_MOUNT):
            command = (
                sys.executable,
                "-u",
                "-m",
                "pytest",
                "-q",
                "--tb=short",
                "--color=no",
                str(folder.relative_to(ROOT)),
            )
            groups.append(Job(name=f"unit {folder.name}", kind="unit", command=command, limit_s=UNIT_LIMIT_S))
    return groups


def static_checks() -> list[Job]:
    """Format, lint, types and import contracts."""
    tool = Path(sys.executable).parent
    commands = {
        "ruff check": (str(tool / "ruff"), "check", "."),
        "ruff format": (str(tool / "ruff"), "format", "--check", "."),
        "mypy": (sys.executable, "-m", "mypy"),
        "contracts": (str(tool / "lint-imports"), "--no-cache"),
    }
    return [Job(name=name, kind="static", command=c, limit_s=STATIC_LIMIT_S) for name, c in commands.items()]
