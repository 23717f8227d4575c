"""A TCP proxy that damages streams between nodes: cuts them, or flips a byte, after some amount."""

from __future__ import annotations

import contextlib
import random
import socket
import threading


class Proxy:
    """Forwards to ``target``; what comes back is cut off after a random number of bytes.

    ``damage`` is ``cut`` or ``flip``; ``heal()`` lets everything through unchanged.
    """

    def __init__(self, target_port: int, rng: random.Random, *, damage: str = "cut", largest: int = 200_000) -> None:
        self._target, self._rng, self._damage, self._largest = target_port, rng, damage, largest
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.damaged = 0
        self._healed = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def heal(self) -> None:
        """From now on nothing is damaged."""
        self._healed.set()

    def close(self) -> None:
        """Stop listening."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=10)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        threading.Thread(target=_forward, args=(client, server), daemon=True).start()
        self._back(server, client, None if self._healed.is_set() else self._rng.randrange(300, self._largest))

    def _back(self, server: socket.socket, client: socket.socket, limit: int | None) -> None:
        passed = 0
        with contextlib.suppress(OSError), server, client:
            while block := server.recv(65536):
                if limit is not None and passed + len(block) > limit:
                    self.damaged += 1
                    at = limit - passed
                    if self._damage == "cut":
                        client.sendall(block[:at])
                        return
                    block = block[:at] + bytes([block[at] ^ 0x55]) + block[at + 1 :]
                    limit = None
                client.sendall(block)
                passed += len(block)


def _forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(65536):
            target.sendall(block)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
