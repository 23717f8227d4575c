"""Messages between the processes of one node: a JSON object and some descriptors per datagram.

Used on SEQPACKET socket pairs, so a message is whole or absent. Limit: 60 kB.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence

BYTES_MAX = 60_000
FDS_MAX = 16  # no message carries more

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Message = dict[str, Any]
else:
    Message = dict


def pair() -> tuple[socket.socket, socket.socket]:
    """Two connected ends; both are closed on exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(sock: socket.socket, message: Message, fds: Sequence[int] = ()) -> None:
    """Send one message; the descriptors stay open here.

    Raises:
        OSError: the other end is gone.
    """
    raw = json.dumps(message).encode()
    if len(raw) > BYTES_MAX:
        raise OverflowError(f"a message of {len(raw)} bytes; at most {BYTES_MAX}")
    socket.send_fds(sock, [raw], list(fds), socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[Message, list[int]] | None:
    """The next message and its descriptors, or None when the other end is gone."""
    try:
        raw, fds, _, _ = socket.recv_fds(sock, BYTES_MAX, FDS_MAX, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    for fd in fds:
        os.set_inheritable(fd, False)
    if not raw:
        return None
    message: Message = json.loads(raw)
    return message, fds
