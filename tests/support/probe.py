"""Peers made by hand: a client and a server that count what the other side gives them.

TLS is driven over buffers, so that bytes on the wire after the handshake and bytes of data are
counted apart. As a program it is the client alone, for networks that a lane itself is not in:

    python -m support.probe HOST PORT --say [plain-]stream|[plain-]info [--name POD] [--certificate FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import ssl
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlitecluster.replication import wire
from sqlitecluster.replication.chunked import chunk, request_head
from sqlitecluster.replication.lineage import Hello
from sqlitecluster.replication.wire import FrameType

ALERT_BYTES = 64
"""An encrypted alert and the end of a connection are shorter than this; any answer is longer."""


@dataclass
class Seen:
    """What a peer gave."""

    handshake: bool = False
    """Complete, as far as the client can know."""
    wire: int = 0
    """Bytes on the wire after that."""
    data: bytes = b""
    """What they decrypt to (all of it without TLS)."""
    error: str = ""


def stream_request(name: str, cluster_id: str = "") -> bytes:
    """What a replica sends: the request, its hello, no positions."""
    hello = Hello(cluster_id, 0x1234, name, 0).to_wire()
    body = wire.encode_json(FrameType.HELLO, hello) + wire.encode(FrameType.POSITIONS_END)
    return request_head("/stream", "probe") + chunk(body)


def info_request() -> bytes:
    """A plain GET."""
    return b"GET /info HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"


def client(files: tuple[Path, Path] | None) -> ssl.SSLContext:
    """A client that trusts anybody and shows this certificate, or none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if files is not None:
        context.load_cert_chain(files[0])
    return context


def ask(
    port: int, context: ssl.SSLContext | None, request: bytes, seconds: float = 3.0, *, host: str = "127.0.0.1"
) -> Seen:
    """Connect, send, and read until the other side ends or the time is over."""
    seen = Seen()
    with socket.create_connection((host, port), timeout=seconds) as sock:
        deadline = time.monotonic() + seconds
        try:
            if context is None:
                sock.sendall(request)
                _read_plain(sock, seen, deadline)
            else:
                _Client(sock, context, seen).run(request, deadline)
        except (OSError, ssl.SSLError) as error:
            seen.error = str(error)
    return seen


def check_nothing(seen: Seen, *, tls: bool) -> None:
    """Whether a stranger got nothing: no data, and on the wire no more than an alert.

    Raises:
        AssertionError: with what it got.
    """
    assert seen.wire <= ALERT_BYTES, f"{seen.wire} bytes after the handshake: {seen}"
    if tls:
        assert not seen.data, seen
    else:
        assert b"HTTP" not in seen.data, seen  # a TLS alert in the clear, at most


def check_renamed(seen: Seen) -> None:
    """Whether a pod that says that it is another one was refused by name, and got no data.

    Raises:
        AssertionError: with what it got.
    """
    assert seen.data.startswith(b"HTTP/1.1 409"), seen.data[:300]
    assert b"ClusterMismatch" in seen.data and len(seen.data) < 1000, seen.data[:1000]


def to_json(seen: Seen) -> str:
    """For another process."""
    return json.dumps(asdict(seen) | {"data": seen.data.hex()})


def from_json(text: str) -> Seen:
    """The inverse of ``to_json``."""
    found: dict[str, Any] = json.loads(text)
    return Seen(**found | {"data": bytes.fromhex(found["data"])})


def _read_plain(sock: socket.socket, seen: Seen, deadline: float) -> None:
    while (left := deadline - time.monotonic()) > 0:
        sock.settimeout(left)
        data = sock.recv(65536)
        if not data:
            return
        seen.data += data
        seen.wire += len(data)


class _Client:
    """One TLS client over buffers."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, seen: Seen) -> None:
        self._sock, self._seen = sock, seen
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)

    def run(self, request: bytes, deadline: float) -> None:
        self._handshake(deadline)
        self._seen.handshake = True
        self._tls.write(request)
        self._flush()
        while time.monotonic() < deadline:
            if not self._receive(deadline):
                return
            with contextlib.suppress(ssl.SSLWantReadError):
                while data := self._tls.read(65536):
                    self._seen.data += data

    def _handshake(self, deadline: float) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._receive(deadline, count=False):
                    raise ConnectionError("ended within the handshake") from None
            else:
                self._flush()
                return

    def _receive(self, deadline: float, *, count: bool = True) -> bool:
        self._sock.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            data = self._sock.recv(65536)
        except TimeoutError:
            return False
        self._seen.wire += len(data) if count else 0
        self._in.write(data)
        return bool(data)

    def _flush(self) -> None:
        if data := self._out.read():
            self._sock.sendall(data)


class Impostor:
    """Listens where a primary should; keeps every byte of data that somebody sends to it."""

    def __init__(self, files: tuple[Path, Path] | None) -> None:
        self._context: ssl.SSLContext | None = None
        if files is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(files[0])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.handshakes = 0
        self.data = b""
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(5)
        with contextlib.suppress(OSError), sock:
            talk = sock
            if self._context is not None:
                talk = self._context.wrap_socket(sock, server_side=True)
                self.handshakes += 1
            while data := talk.recv(65536):
                self.data += data


def main() -> None:
    """Ask once; prints what was seen as JSON."""
    parser = argparse.ArgumentParser(prog="python -m support.probe")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--say", choices=("stream", "info", "plain-info", "plain-stream"), required=True)
    parser.add_argument("--name", default="")
    parser.add_argument("--certificate", type=Path)
    options = parser.parse_args()
    request = info_request() if options.say.endswith("info") else stream_request(options.name)
    files = (options.certificate, options.certificate) if options.certificate else None
    context = None if options.say.startswith("plain") else client(files)
    print(to_json(ask(options.port, context, request, host=options.host)))


if __name__ == "__main__":
    main()
