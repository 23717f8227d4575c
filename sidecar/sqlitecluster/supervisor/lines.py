"""Log lines: how one event looks, as text or JSON. Imports next to nothing.

Used by the supervisor directly and by ``logs`` for all processes that can afford the
logging package.
"""

from __future__ import annotations

import json
import os
import sys
import time

_LEVELS = ("debug", "info", "warning", "error", "critical")
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m", "critical": "\x1b[31m", "debug": "\x1b[2m"}


class Style:
    """The form of a line: which node, text or JSON, with colours or without."""

    __slots__ = ("_colour", "_json", "_node")

    def __init__(self, node: str, form: str, *, colour: bool) -> None:
        self._node, self._json, self._colour = node, form == "json", colour

    def line(self, level: str, source: str, text: str, *, code: str = "", now: float) -> str:
        """One event, without the line end."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
        if self._json:
            event = {"time": stamp, "level": level, "node": self._node, "source": source, "message": text}
            return json.dumps({**event, "code": code} if code else event)
        ending = f" [{code}]" if code else ""
        line = f"{stamp} {level:<7} {self._node} {source}: {text}{ending}"
        colour = _COLOURS.get(level, "") if self._colour else ""
        return f"{colour}{line}\x1b[0m" if colour else line


class Log:
    """The supervisor's log."""

    def __init__(self, style: Style, level: str) -> None:
        self._style = style
        self._least = _LEVELS.index(level)
        self._source = f"supervisor[{os.getpid()}]"

    def say(self, level: str, text: str, *, code: str = "") -> None:
        """Write one event to standard error; a reader that is gone is no reason to stop."""
        if _LEVELS.index(level) < self._least:
            return
        line = self._style.line(level, self._source, text, code=code, now=time.time())
        try:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except OSError:
            return
