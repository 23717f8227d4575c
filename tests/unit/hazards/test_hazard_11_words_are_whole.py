"""Hazard 11: a word of shared memory that one process rewrites is never seen half by another."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from sqlitecluster.shared import NodeWord, State
from support import processes

ODD, EVEN = 0x1111_1111_1111_1111, 0x2222_2222_2222_2222
_WRITER = """
import sys
from sqlitecluster.shared import NodeWord, State
words = State(int(sys.argv[1])).node
while True:
    for _ in range(10000):
        words[NodeWord.EPOCH] = {odd}
        words[NodeWord.EPOCH] = {even}
"""


def test_another_process_never_sees_half_a_word() -> None:
    fd = State.create()
    state = State(fd)
    state.node[NodeWord.EPOCH] = ODD
    os.set_inheritable(fd, True)
    command = [sys.executable, "-c", _WRITER.format(odd=ODD, even=EVEN), str(fd)]
    writer = subprocess.Popen(command, env=processes.environment(), close_fds=False)
    try:
        assert processes.wait_until(lambda: state.node[NodeWord.EPOCH] == EVEN, limit_s=30, step_s=0.0)
        seen = {ODD: 0, EVEN: 0}
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            for _ in range(1000):
                value = state.node[NodeWord.EPOCH]
                assert value in seen, f"{value:x} was never written"
                seen[value] += 1
        assert min(seen.values()) > 0
    finally:
        writer.kill()
        writer.wait()
