"""Namespaces of a test: packets pass through the relay, each direction by itself, and nothing stays."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.chaosnet import CUT, GOOD, ChaosNet, Link
from support.mounting import can_mount
from support.namespaces import Namespace

pytestmark = pytest.mark.skipif(not can_mount(), reason="needs root")
A, B = "10.88.0.11", "10.88.0.12"


@pytest.fixture
def net(tmp_path: Path) -> Iterator[tuple[Namespace, Namespace, ChaosNet]]:
    spaces = (Namespace(A), Namespace(B))
    relay = ChaosNet(spaces, "1", tmp_path / "net.log")
    yield (*spaces, relay)
    relay.close()
    for space in spaces:
        space.close()


def udp(space: Namespace) -> socket.socket:
    made: socket.socket = space.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((space.address, 5000))
    made.settimeout(5)
    return made


def arrives(source: socket.socket, target: socket.socket, limit_s: float = 10.0) -> bool:
    """Whether one packet gets through."""
    target.settimeout(limit_s)
    source.sendto(b"x", target.getsockname())
    with contextlib.suppress(TimeoutError):
        return target.recv(10) == b"x"
    return False


def test_directions_are_cut_and_healed_apart(net: tuple[Namespace, Namespace, ChaosNet]) -> None:
    first, second, relay = net
    with udp(first) as a, udp(second) as b:
        assert arrives(a, b) and arrives(b, a)
        relay.set([(A, B, CUT)])
        assert not arrives(a, b, 0.3)  # long enough to believe it
        assert arrives(b, a)
        relay.set([(A, B, GOOD)])
        assert arrives(a, b)
        relay.set([(A, B, CUT), (B, A, CUT)])
        relay.heal()
        assert arrives(a, b) and arrives(b, a)
        relay.set([(A, B, CUT)])
        relay.begin("2")
        assert arrives(a, b)


def test_a_late_direction_is_late(net: tuple[Namespace, Namespace, ChaosNet]) -> None:
    first, second, relay = net
    relay.set([(A, B, Link(delay_ms=200))])
    with udp(first) as a, udp(second) as b:
        began = time.monotonic()
        a.sendto(b"x", (B, 5000))
        assert b.recv(10) == b"x"
        assert time.monotonic() - began >= 0.2


def test_the_machine_has_no_new_device_nor_named_namespace(net: tuple[Namespace, Namespace, ChaosNet]) -> None:
    assert not [name for name in os.listdir("/sys/class/net") if name.startswith("tun")]
    here = os.stat("/proc/self/ns/net").st_ino
    assert net[0].call(os.stat, "/proc/thread-self/ns/net").st_ino != here
