"""Colours, only where a person looks at a terminal."""

from __future__ import annotations

import os
from typing import Final, TextIO

_CODES: Final = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}


def is_terminal(stream: TextIO) -> bool:
    """Whether colours and moving lines are welcome on ``stream``."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and "NO_COLOR" not in os.environ


def paint(text: str, colour: str, stream: TextIO) -> str:
    """The text in a colour, or as it is when ``stream`` is no terminal."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if is_terminal(stream) else text
