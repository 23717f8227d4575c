"""``python -m sqlitecluster_operator``: reads the command line, sets up logging, runs one operator."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Final, NoReturn

from sqlitecluster_operator.options import Options, parse
from sqlitecluster_operator.runtime.process import Operator

log = logging.getLogger(__name__)

_END_S: Final = 3.0
_LOUD: Final = ("kopf", "aiohttp.access", "urllib3", "asyncio")


class JSONFormatter(logging.Formatter):
    """One event a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        row = {
            "ts": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            row["error"] = self.formatException(record.exc_info)
        return json.dumps(row)


def set_up_logging(options: Options) -> None:
    """To standard error."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JSONFormatter() if options.log_format == "json" else text)
    logging.basicConfig(level=options.log_level.upper(), handlers=[handler], force=True)
    for name in _LOUD:
        logging.getLogger(name).setLevel(logging.WARNING)


async def _run(options: Options) -> int:
    code = await Operator(options).run()
    await _end_tasks(code)
    return code


async def _end_tasks(code: int) -> None:
    """Cancel what is left, as ``asyncio.run`` would do; but a task that does not end keeps nobody here.

    Who lost the leadership must go: another operator leads, and this one would wait for ever without a liveness probe
    that says so.
    """
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        _, stuck = await asyncio.wait(left, timeout=_END_S)
        if stuck:
            log.warning("not waited for: %s", "; ".join(repr(task) for task in stuck))
            _leave(code)


def _leave(code: int) -> NoReturn:
    logging.shutdown()
    os._exit(code)


def main() -> int:
    """Entry of the operator's image."""
    options = parse()
    set_up_logging(options)
    code = asyncio.run(_run(options))
    _leave(code)  # a thread may still wait for an answer: nobody needs it any more


if __name__ == "__main__":
    sys.exit(main())
