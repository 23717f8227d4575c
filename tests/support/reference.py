"""The reference ``ltx`` tool, built from its Go module and kept outside the tree.

``tests/interop/newest`` and ``tests/interop/litefs`` pin the two versions: the newest
library (generation 3b) and the one that LiteFS uses (generation 1).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from support.gotool import built

PACKAGE = "github.com/superfly/ltx/cmd/ltx"
SUMMARY = re.compile(r"ok|\d+ ok, \d+ invalid")
CALL_TIMEOUT_S = 600


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
    """The tool of version ``newest`` or ``litefs``; built on first use."""
    return Reference(built(version, "ltx", PACKAGE))
