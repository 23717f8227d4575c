"""The replica's connection to its primary: bytes in, frames out, in one turn of the loop.

Used by ``stream_client``. Frames that can be taken at once are taken inside
``data_received``; the others wait, in order, for the client's task.

Rules:
    1. While frames wait (more than ``_WAITING_BYTES``), or the client says so, the socket is
       not read.
    2. Silence of ``deadline_s`` while it is read ends the connection.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Final

from sqlitecluster.errors import SQLiteClusterError, StreamError, from_wire
from sqlitecluster.replication.chunked import ResponseParser, chunk, request_head
from sqlitecluster.replication.wire import MAX_JSON, Frame, Parser

_WAITING_BYTES: Final = 4 << 20


class PrimaryConnection(asyncio.Protocol):
    """One HTTP exchange: POST, chunked both ways."""

    def __init__(
        self, path: str, host: str, take: Callable[[Frame], bool], count: Callable[[int], None], deadline_s: float
    ) -> None:
        self._head = request_head(path, host)
        self._take = take
        self._count = count
        self._deadline_s = deadline_s
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._response = ResponseParser()
        self._frames = Parser()
        self._refusal = bytearray()
        self._waiting: deque[Frame] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._error: Exception | None = None
        self._heard = self._loop.time()
        self._paused = False
        self._held = False
        self._watch = self._loop.call_later(deadline_s, self._check)

    # for the client

    def send(self, data: bytes) -> None:
        """Send one piece of the request's body."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(chunk(data))

    async def next_frame(self) -> Frame:
        """The next frame that ``take`` did not want.

        Raises:
            SQLiteClusterError: the primary refused the stream, or it broke.
        """
        while not self._waiting:
            if self._error is not None:
                raise self._error
            self._wake.clear()
            await self._wake.wait()
        return self._waiting[0]

    def done(self) -> None:
        """The frame that ``next_frame`` gave is dealt with; later ones may be taken at once again."""
        frame = self._waiting.popleft()
        self._waiting_bytes -= len(frame.payload)
        self._flow()

    def hold(self, held: bool) -> None:
        """Do not read the socket while ``held``."""
        self._held = held
        self._flow()

    def wake(self, error: Exception) -> None:
        """End ``next_frame`` with an error."""
        self._error = self._error or error
        self._wake.set()

    def close(self) -> None:
        """End the connection."""
        self._watch.cancel()
        if self._transport is not None:
            self._transport.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The request goes out."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._heard = self._loop.time()
        transport.write(self._head)

    def data_received(self, data: bytes) -> None:
        """Bytes of the response."""
        self._heard = self._loop.time()
        self._count(len(data))
        if self._error is not None:
            return
        try:
            for piece in self._response.feed(data):
                self._piece(piece)
        except SQLiteClusterError as error:
            self.wake(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side is gone."""
        head = self._response.head
        if head is not None and head.status != 200:
            self.wake(self._refused(head.status))
        where = " inside a frame" if self._frames.pending else ""
        why = f": {exc}" if exc is not None else ""
        self.wake(StreamError(f"the connection to the primary ended{where}{why}"))

    # parts

    def _piece(self, piece: bytes) -> None:
        assert self._response.head is not None
        if self._response.head.status != 200:
            self._refusal += piece[: MAX_JSON - len(self._refusal)]
            if _complete(self._refusal):
                self.wake(self._refused(self._response.head.status))
            return
        for frame in self._frames.feed(piece):
            if self._waiting or not self._take(frame):
                self._waiting.append(frame)
                self._waiting_bytes += len(frame.payload)
        if self._waiting:
            self._wake.set()
            self._flow()

    def _refused(self, status: int) -> SQLiteClusterError:
        try:
            value = json.loads(self._refusal)
            return from_wire(str(value["code"]), f"the primary refuses the stream: {value['message']}")
        except (ValueError, KeyError, TypeError):
            return StreamError(f"the primary answered with status {status}")

    def _flow(self) -> None:
        pause = self._held or self._waiting_bytes > _WAITING_BYTES
        if pause == self._paused or self._transport is None or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._heard = self._loop.time()
            self._transport.resume_reading()

    def _check(self) -> None:
        silent = 0.0 if self._paused else self._loop.time() - self._heard
        if silent >= self._deadline_s:
            self.wake(StreamError(f"the primary was silent for {self._deadline_s:g} s"))
            return
        self._watch = self._loop.call_later(self._deadline_s - silent, self._check)


def _complete(text: bytearray) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
