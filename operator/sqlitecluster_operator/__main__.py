"""``python -m sqlitecluster_operator``: reads the command line, sets up logging, runs one operator."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from typing import Final

from sqlitecluster_operator.options import Options, parse
from sqlitecluster_operator.runtime.process import Operator

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
    return await Operator(options).run()


def main() -> int:
    """Entry of the operator's image."""
    options = parse()
    set_up_logging(options)
    code = asyncio.run(_run(options))
    logging.shutdown()
    os._exit(code)  # a thread may still wait for an answer: nobody needs it any more


if __name__ == "__main__":
    sys.exit(main())
