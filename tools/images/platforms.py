"""``requirements/platforms.json``: which file of each locked package an image of each architecture gets.

Made by ``python -m images platforms`` from the lock, with pip's own resolution; nothing is installed. A package
without a ready file for an architecture is built there from its source file, which the lock names too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from images.interpreter import VERSION, MissingError
from images.recipes import RECIPES, ROOT

PATH: Final = ROOT / "requirements" / "platforms.json"
ARCHITECTURES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_SYSTEMS: Final = ("manylinux_2_28", "manylinux2014", "manylinux_2_17")  # glibc 2.28 and newer
_BLOCK: Final = re.compile(r"^[A-Za-z0-9._-]+==.*?(?=^[A-Za-z0-9._-]+==|\Z)", re.MULTILINE | re.DOTALL)
_LIMIT_S: Final = 600.0

Table = dict[str, dict[str, dict[str, str]]]
"""Lock → architecture → package → file name and hash; "source" where it is built."""


def blocks(lock: Path) -> dict[str, str]:
    """The lines of each package of a lock."""
    return {plain(block.partition("==")[0]): block for block in _BLOCK.findall(lock.read_text())}


def plain(name: str) -> str:
    """A package's name in the one spelling that counts as the same: ``Typing_Extensions`` → ``typing-extensions``."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve() -> Table:
    """Ask pip for every lock and architecture."""
    locks = sorted({recipe.lock for recipe in RECIPES if recipe.lock})
    return {lock: {name: _resolve(lock, machine) for name, machine in ARCHITECTURES.items()} for lock in locks}


def write() -> None:
    """Renew the file."""
    PATH.write_text(json.dumps(resolve(), indent=1, sort_keys=True) + "\n")


def _resolve(lock: str, machine: str) -> dict[str, str]:
    wanted = blocks(ROOT / "requirements" / lock)
    found: dict[str, str] = {}
    while len(found) < len(wanted):
        left = {name: block for name, block in wanted.items() if name not in found}
        answer = _ask(left, machine)
        if isinstance(answer, str):  # this one has no ready file
            found[answer] = "source"
            continue
        found |= answer
    return found


def _ask(wanted: dict[str, str], machine: str) -> dict[str, str] | str:
    """File and hash of each package, or the name of one that has no ready file."""
    with tempfile.TemporaryDirectory() as folder:
        requirements, report = Path(folder) / "wanted.txt", Path(folder) / "report.json"
        requirements.write_text("".join(wanted.values()))
        platforms = [part for system in _SYSTEMS for part in ("--platform", f"{system}_{machine}")]
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--disable-pip-version-check"),
                *("--ignore-installed", "--no-deps", "--require-hashes", "--only-binary=:all:", *platforms),
                *("--python-version", VERSION, "--target", folder, "--report", str(report), "-r", str(requirements)),
            ],
            capture_output=True, text=True, check=False, timeout=_LIMIT_S,
        )  # fmt: skip
        if done.returncode:
            missing = re.search(r"No matching distribution found for ([A-Za-z0-9._-]+)==", done.stderr)
            if missing is None:
                raise MissingError(f"pip could not resolve the lock: {done.stderr.strip()[-300:]}")
            return plain(missing[1])
        return dict(_file(one) for one in json.loads(report.read_text())["install"])


def _file(entry: dict[str, Any]) -> tuple[str, str]:
    info = entry["download_info"]
    name = info["url"].rpartition("/")[2]
    return plain(entry["metadata"]["name"]), f"{name} {info['archive_info']['hash'].replace('=', ':')}"
