"""The cable between namespaces: a process that carries their packets, and may do it badly.

``ChaosNet`` starts it (``python -m support.chaosnet``) and says for each direction of each
pair what happens to packets: ``Link(drop, delay_ms, jitter_ms, rate)``.

Rules:
    1. Directions are independent: what A sends to B may be lost while B's packets arrive.
    2. All randomness comes from the seed and the direction's two names.
    3. A change is in force when ``set`` returns; packets that are on their way still arrive.
"""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Final

from support import processes
from support.namespaces import Namespace

QUEUE_S: Final = 1.0
"""What a slow direction keeps; more is lost."""
BURST: Final = 64
_PACKET_MAX: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Link:
    """How one direction carries packets."""

    drop: float = 0.0
    """Part of the packets that is lost; 1: the direction is cut."""
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    """Each packet is up to so much later: packets overtake each other."""
    rate: float = 0.0
    """Bytes a second; 0: no limit."""


CUT: Final = Link(drop=1.0)
GOOD: Final = Link()


@dataclass(slots=True)
class Direction:
    """One direction's present state; pure, times are given."""

    rng: random.Random
    link: Link = GOOD
    free_at: float = 0.0
    """When a slow direction has sent what waits."""

    def due(self, size: int, now: float) -> float | None:
        """When a packet arrives; None when it is lost."""
        link = self.link
        if link.drop and self.rng.random() < link.drop:
            return None
        at = now
        if link.rate:
            at = max(now, self.free_at) + size / link.rate
            if at - now > QUEUE_S:
                return None
            self.free_at = at
        if link.delay_ms or link.jitter_ms:
            at += (link.delay_ms + self.rng.random() * link.jitter_ms) / 1000
        return at


@dataclass(slots=True)
class Router:
    """Carries packets between TUN descriptors."""

    tuns: Mapping[str, int]
    """Address → descriptor."""
    seed: str
    directions: dict[tuple[int, bytes], Direction] = field(default_factory=dict)
    waiting: list[tuple[float, int, int, bytes]] = field(default_factory=list)
    _count: int = 0

    def direction(self, source: int, to: bytes) -> Direction:
        """From a descriptor to an address."""
        found = self.directions.get((source, to))
        if found is None:
            name = next((a for a, fd in self.tuns.items() if fd == source), "")
            rng = random.Random(f"{self.seed}/{name}>{to.hex()}")
            found = self.directions[source, to] = Direction(rng)
        return found

    def run(self, control: IO[str]) -> None:
        """Until the control input ends."""
        by_address = {_packed(address): fd for address, fd in self.tuns.items()}
        poll = select.poll()
        for fd in (control.fileno(), *self.tuns.values()):
            poll.register(fd, select.POLLIN)
        while True:
            wait_s = max(0.0, self.waiting[0][0] - time.monotonic()) if self.waiting else None
            for fd, _event in poll.poll(None if wait_s is None else wait_s * 1000):
                if fd != control.fileno():
                    self._read(fd, by_address)
                elif not self._obey(control.readline()):
                    return
            self._deliver()

    def _read(self, source: int, by_address: Mapping[bytes, int]) -> None:
        now = time.monotonic()
        for _ in range(BURST):
            try:
                packet = os.read(source, _PACKET_MAX)
            except OSError:
                return
            to = packet[16:20]
            target = by_address.get(to) if packet[0] >> 4 == 4 else None
            if target is None:
                continue
            due = self.direction(source, to).due(len(packet), now)
            if due is None:
                continue
            if due <= now:
                _write(target, packet)
            else:
                self._count += 1
                heapq.heappush(self.waiting, (due, self._count, target, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self.waiting and self.waiting[0][0] <= now:
            _, _, target, packet = heapq.heappop(self.waiting)
            _write(target, packet)

    def _obey(self, line: str) -> bool:
        if not line:
            return False
        told = json.loads(line)
        if isinstance(told, str):
            self.seed = told
            self.directions.clear()
            told = []
        for source, to, link in told:
            self.direction(self.tuns[source], _packed(to)).link = Link(**link)
        print("ok", flush=True)
        return True


class ChaosNet:
    """The process, seen from the test."""

    def __init__(self, spaces: Iterable[Namespace], seed: str, log: Path) -> None:
        self._spaces = [space.address for space in spaces]
        tuns = {space.address: space.tun for space in spaces}
        command = [sys.executable, "-m", "support.chaosnet", json.dumps({"tuns": tuns, "seed": seed})]
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True,
                env=processes.environment(), pass_fds=tuple(tuns.values()), start_new_session=True,
            )  # fmt: skip
        self.set([])  # it runs now

    def set(self, changes: Iterable[tuple[str, str, Link]]) -> None:
        """Change directions, given as (from, to, link)."""
        self._tell([(a, b, asdict(link)) for a, b, link in changes])

    def begin(self, seed: str) -> None:
        """Everything is carried as it should be, and what is random begins anew from a seed."""
        self._tell(seed)

    def _tell(self, what: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "ok\n":
            raise RuntimeError("the relay ended")

    def heal(self) -> None:
        """Everything is carried as it should be."""
        self.set([(a, b, GOOD) for a in self._spaces for b in self._spaces if a != b])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def _write(target: int, packet: bytes) -> None:
    with contextlib.suppress(OSError):  # a full queue loses packets, as networks do
        os.write(target, packet)


def main() -> int:
    """Entry of ``python -m support.chaosnet``."""
    told = json.loads(sys.argv[1])
    Router(told["tuns"], told["seed"]).run(sys.stdin)
    return 0


if __name__ == "__main__":
    sys.exit(main())
