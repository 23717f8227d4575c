"""Where a database stands: a transaction number and the checksum of its content.

Used by the store, the streams, the command line and the mount's ``-pos`` files.
The text form is LiteFS's: ``TXID/CHECKSUM``, 16 lower-case hex digits each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_TEXT_LENGTH: Final = 33


@dataclass(frozen=True, slots=True)
class Position:
    """A position; ``ZERO`` means that nothing is known yet."""

    txid: int
    checksum: int

    def __str__(self) -> str:
        return f"{self.txid:016x}/{self.checksum:016x}"

    @property
    def is_zero(self) -> bool:
        """True before the first transaction."""
        return self.txid == 0

    @classmethod
    def parse(cls, text: str) -> Position:
        """Read the text form.

        Raises:
            ValueError: not 16 hex digits, a slash and 16 hex digits.
        """
        txid, slash, checksum = text.strip().partition("/")
        if len(txid) + len(slash) + len(checksum) != _TEXT_LENGTH or len(txid) != 16:
            raise ValueError(f"{text!r} is no position such as 000000000000002a/8e5c2a6f0d1b3c4e")
        if not set(txid + checksum) <= set("0123456789abcdefABCDEF"):
            raise ValueError(f"{text!r} has characters that are not hex digits")
        return cls(int(txid, 16), int(checksum, 16))


ZERO: Final = Position(0, 0)
