"""Puts the TX frames of many databases together again, and resumes broken ones.

The stream client feeds every TX frame; a whole LTX file comes out with its LAST frame.
When a stream breaks, ``partials`` says what need not be sent again.

Rules:
    1. A buffer grows only with bytes that arrived; what a frame announces is checked
       against ``max_bytes`` and never allocated ahead.
    2. All open buffers together stay below ``max_bytes``.
    3. A FIRST frame with another length or file checksum throws the old part away.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlitecluster.errors import LimitError, WireError
from sqlitecluster.replication.wire import Flag, Frame, Partial, tx_begin
from sqlitecluster.units import LIMITS


@dataclass(slots=True)
class _Part:
    length: int
    checksum: int
    data: bytearray


class Assembler:
    """Transactions under way on one stream (and kept across a reconnect)."""

    def __init__(self, max_bytes: int = LIMITS.ltx_bytes) -> None:
        self._max = max_bytes
        self._parts: dict[str, _Part] = {}
        self._held = 0

    @property
    def held(self) -> int:
        """Bytes of incomplete transactions."""
        return self._held

    def partials(self) -> dict[str, Partial]:
        """Name → what was received of its incomplete transaction."""
        return {n: Partial(p.length, p.checksum, len(p.data)) for n, p in self._parts.items() if p.data}

    def forget(self, name: str) -> None:
        """Throw the incomplete transaction of one database away."""
        part = self._parts.pop(name, None)
        if part is not None:
            self._held -= len(part.data)

    def feed(self, frame: Frame) -> bytes | None:
        """The whole LTX file once its last frame is there, else None.

        Raises:
            WireError: frames in an impossible order.
            LimitError: more than ``max_bytes`` announced or held.
        """
        if frame.flags & Flag.FIRST:
            length, checksum, start, body = tx_begin(frame)
            if frame.flags & Flag.LAST and start == 0 and len(body) == length:
                self.forget(frame.name)
                return bytes(body)
            part = self._begin(frame.name, length, checksum, start)
        else:
            found = self._parts.get(frame.name)
            if found is None:
                raise WireError("TX", frame.name, "the middle of a transaction whose start is missing")
            part, body = found, memoryview(frame.payload)
        if len(part.data) + len(body) > part.length:
            raise WireError("TX", frame.name, f"more than the announced {part.length} bytes")
        self._held += len(body)
        if self._held > self._max:
            raise LimitError(f"incomplete transactions of {self._held} bytes, at most {self._max} are accepted")
        part.data += body
        return self._finish(frame, part)

    def _begin(self, name: str, length: int, checksum: int, start: int) -> _Part:
        if length > self._max:
            raise LimitError(f"a transaction of {length} bytes, at most {self._max} are accepted")
        part = self._parts.get(name)
        if start:
            if part is None or (part.length, part.checksum, len(part.data)) != (length, checksum, start):
                raise WireError("TX", name, "resumed at a place where nothing was interrupted")
            return part
        self.forget(name)
        part = self._parts[name] = _Part(length, checksum, bytearray())
        return part

    def _finish(self, frame: Frame, part: _Part) -> bytes | None:
        if not frame.flags & Flag.LAST:
            return None
        if len(part.data) != part.length:
            raise WireError("TX", frame.name, f"ended after {len(part.data)} of {part.length} bytes")
        self.forget(frame.name)
        return bytes(part.data)
