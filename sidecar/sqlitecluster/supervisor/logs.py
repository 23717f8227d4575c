"""Logging of the workers: one event a line, as text or JSON, to standard error.

Called in the template, before any fork. Lines look the same as the supervisor's own
(``lines``); a code given as ``extra={"code": ...}`` is part of the line.
"""

from __future__ import annotations

import logging
import os
import sys
import time

from sqlitecluster.config.model import NodeConfig
from sqlitecluster.supervisor import lines


class _Formatter(logging.Formatter):
    def __init__(self, style: lines.Style) -> None:
        super().__init__()
        self._lines = style

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        source = f"{record.name.removeprefix('sqlitecluster.')}[{os.getpid()}]"
        code = str(getattr(record, "code", ""))
        return self._lines.line(record.levelname.lower(), source, text, code=code, now=record.created)


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether a record of the HTTP server is about us: a peer's malformed request must not fill the log."""
    error = record.exc_info[1] if record.exc_info else None
    return type(error).__module__ != "aiohttp.http_exceptions"


def configure(config: NodeConfig) -> None:
    """Send everything of the configured level and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(lines.Style(config.name, config.log_format, colour=sys.stderr.isatty())))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.server").addFilter(_is_ours)
    logging.Formatter.converter = time.gmtime
