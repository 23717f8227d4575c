"""Which SQLite wrote page 1 of a database last, and whether its write-ahead logs may lose something.

    writer_version(page)       number in the database header (bytes 96 … 99), as SQLite counts: 3051003 is 3.51.3
    version_text(number)       "3.51.3"
    advice(number)             what to do about it; empty when all is well

Pure. Source: SQLite's file format, section 1.3.17; "The WAL-Reset Bug" in its description of WAL: from
3.7.0 on, a checkpoint may take a log for written back that another connection began anew at the same
moment. Mended in 3.51.3, 3.50.7 and 3.44.6. 3.52.0, which had the remedy first, was withdrawn.
"""

from __future__ import annotations

from typing import Final

from sqlitecluster.units import Bytes

VERSION_AT: Final = 96
_LENGTH: Final = 4
_FIRST: Final = 3_007_000
_MENDED: Final = 3_051_003
_BACK_PORTS: Final = (range(3_044_006, 3_045_000), range(3_050_007, 3_051_000))
_WITHDRAWN: Final = 3_052_000


def writer_version(page: Bytes) -> int:
    """The number in a first page; 0 when SQLite never wrote one."""
    return int.from_bytes(page[VERSION_AT : VERSION_AT + _LENGTH], "big")


def version_text(number: int) -> str:
    """As people write it."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def advice(number: int) -> str:
    """What a database in WAL mode that this version writes needs; empty: nothing."""
    if number == _WITHDRAWN:
        return f"written by SQLite {version_text(number)}, which its makers withdrew: use a later one, or 3.51.3"
    if number >= _MENDED or number < _FIRST or any(number in mended for mended in _BACK_PORTS):
        return ""
    return (
        f"written by SQLite {version_text(number)}, whose checkpoints can, rarely, lose commits of other connections: "
        "use 3.51.3 or later (or 3.50.7, 3.44.6) in the program"
    )
