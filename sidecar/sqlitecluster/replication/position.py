"""Where a database stands: a transaction number and the checksum of its content.

Used by the store, the streams, the command line and the mount's ``-pos`` files.
The text form is LiteFS's: ``TXID/CHECKSUM``, 16 lower-case hex digits each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlitecluster.units import format_position, parse_position


@dataclass(frozen=True, slots=True)
class Position:
    """A position; ``ZERO`` means that nothing is known yet."""

    txid: int
    checksum: int

    def __str__(self) -> str:
        return format_position(self.txid, self.checksum)

    @property
    def is_zero(self) -> bool:
        """True before the first transaction."""
        return self.txid == 0

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read the text form.

        Raises:
            FormatError: not 16 hex digits, a slash and 16 hex digits.
        """
        return cls(*parse_position(text.strip()))


ZERO: Final = Position(0, 0)
