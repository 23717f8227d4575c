"""How commands print: text tables or JSON on standard output, progress on a terminal.

Rules:
    1. ``-o json`` prints one JSON document (``events``: one a line), and nothing else,
       on standard output.
    2. Progress goes to standard error and only to a terminal.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from sqlitecluster.cli.terminal import is_terminal

_WIDTH: Final = 30
_EVERY_S: Final = 0.1
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def add_output(parser: argparse.ArgumentParser) -> None:
    """``-o``."""
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="default: text")


def print_json(value: Any) -> None:
    """One JSON document, indented."""
    print(json.dumps(value, indent=2))


def print_table(rows: Sequence[Sequence[object]]) -> None:
    """Columns, the first row being the heads."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def size(count: float) -> str:
    """Bytes for people."""
    unit = 0
    while count >= 1024 and unit < len(_UNITS) - 1:
        count /= 1024
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.1f} {_UNITS[unit]}"


class Progress:
    """A bar on a terminal; nothing elsewhere."""

    def __init__(self, label: str, total: int) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._shown = 0.0
        self._visible = is_terminal(sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._visible and self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        self._done += count
        now = time.monotonic()
        if not self._visible or now - self._shown < _EVERY_S:
            return
        self._shown = now
        share = min(1.0, self._done / self._total) if self._total else 1.0
        bar = "#" * round(share * _WIDTH)
        sys.stderr.write(f"\r\x1b[K{self._label} [{bar:<{_WIDTH}}] {share:4.0%} {size(self._done)}")
        sys.stderr.flush()
