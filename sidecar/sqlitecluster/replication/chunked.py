"""The few parts of HTTP/1.1 that a stream's client needs: one request head, one response, chunks.

Pure. A general HTTP client costs a replica two more turns of its event loop for every
transaction; this decoder hands bytes on in the turn in which they arrive.

Rules: every length is bounded before anything is kept for it; what is not exactly the
expected form is a WireError.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlitecluster.errors import LimitError, WireError

MAX_HEAD: Final = 16 * 1024
MAX_CHUNK: Final = 1 << 26
_MAX_SIZE_LINE: Final = 64


def request_head(path: str, host: str) -> bytes:
    """A POST with a chunked body of unknown length."""
    lines = (
        f"POST {path} HTTP/1.1",
        f"Host: {host}",
        "Content-Type: application/octet-stream",
        "Transfer-Encoding: chunked",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def chunk(data: bytes) -> bytes:
    """One chunk of a body; not for empty data, which would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@dataclass(frozen=True, slots=True)
class Head:
    """Status line and headers of a response."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""


class ResponseParser:
    """Feed it what the connection gives; it gives the pieces of the body.

    ``head`` is None until the headers are complete; ``ended`` is true after the last chunk.
    """

    def __init__(self) -> None:
        self.head: Head | None = None
        self.ended = False
        self._buffer = b""
        self._left = 0  # bytes of the present chunk
        self._tail = 0  # bytes of the line end behind it
        self._plain = False  # a body without chunks: until the connection ends

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of the body in ``data``; exhaust the iterator before the next call.

        Raises:
            WireError: no HTTP response, or damaged chunks.
            LimitError: a head or chunk beyond the limits.
        """
        if self.head is None:
            data = self._read_head(data)
        if self.head is None or not data:
            return
        if self._plain:
            yield data
            return
        yield from self._read_chunks(data)

    def _read_head(self, data: bytes) -> bytes:
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if len(head) > MAX_HEAD:
            raise LimitError(f"a response head of more than {MAX_HEAD} bytes is not accepted")
        if not end:
            return b""
        self._buffer = b""
        self.head = _parse_head(head)
        self._plain = self.head.headers.get("transfer-encoding", "").lower() != "chunked"
        return rest

    def _read_chunks(self, data: bytes) -> Iterator[bytes]:
        at, end = 0, len(data)
        while at < end and not self.ended:
            if self._left:
                take = min(self._left, end - at)
                yield data if take == end else data[at : at + take]
                at += take
                self._left -= take
                self._tail = 0 if self._left else 2
            elif self._tail:
                take = min(self._tail, end - at)
                if data[at : at + take] != b"\r\n"[2 - self._tail :][:take]:
                    raise WireError("chunk", data[at : at + take], "does not end where it should")
                at += take
                self._tail -= take
            else:
                at = self._read_size(data, at)

    def _read_size(self, data: bytes, at: int) -> int:
        """Read the size line of the next chunk; returns where to go on."""
        stop = data.find(b"\n", at, at + _MAX_SIZE_LINE)
        if stop < 0:
            self._buffer += data[at:]
            if len(self._buffer) > _MAX_SIZE_LINE:
                raise WireError("chunk", self._buffer[:16], "no chunk size")
            return len(data)
        line = (self._buffer + data[at:stop]).rstrip(b"\r")
        self._buffer = b""
        try:
            size = int(line.partition(b";")[0], 16)
        except ValueError:
            raise WireError("chunk", line[:16], "no chunk size") from None
        if not 0 <= size <= MAX_CHUNK:
            raise LimitError(f"a chunk of {size} bytes is not accepted")
        self.ended = size == 0
        self._left = size
        return stop + 1


def _parse_head(raw: bytes) -> Head:
    first, *lines = raw.decode("latin-1").split("\r\n")
    parts = first.split(" ", 2)
    if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdigit():
        raise WireError("response", first[:64], "not HTTP/1.1")
    headers = {}
    for line in lines:
        name, _colon, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Head(int(parts[1][:3]), headers)
