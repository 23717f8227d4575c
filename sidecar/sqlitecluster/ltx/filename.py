"""Names of LTX files: ``<min>-<max>.ltx``, 16 lower-case hex digits each. Pure."""

from __future__ import annotations

import re
from typing import Final

from sqlitecluster.errors import LTXError

_NAME: Final = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.ltx")


def filename(min_txid: int, max_txid: int) -> str:
    """The name of the file that holds these transactions."""
    return f"{min_txid:016x}-{max_txid:016x}.ltx"


def parse_filename(name: str) -> tuple[int, int]:
    """(min TXID, max TXID) of a file name.

    Raises:
        LTXError: it is no name of an LTX file.
    """
    match = _NAME.fullmatch(name)
    low, high = (int(match[1], 16), int(match[2], 16)) if match else (0, 0)
    if not 1 <= low <= high:
        raise LTXError("filename", name[:80], "expected <min>-<max>.ltx, 16 lower-case hex digits each, min <= max")
    return low, high
