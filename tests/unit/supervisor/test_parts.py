"""Small parts of the supervisor: restart policy, loop, log lines, words, mount table, pids file."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlitecluster import shared
from sqlitecluster.supervisor import children, mountpoint, words
from sqlitecluster.supervisor.children import RestartPolicy
from sqlitecluster.supervisor.lines import Log, Style
from sqlitecluster.supervisor.loop import Loop
from sqlitecluster.supervisor.pids import PidFile

MOUNTINFO = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
42 27 0:39 / /srv/my\\040data rw,nosuid,nodev - fuse.sqlitecluster sqlitecluster rw,user_id=0
43 27 0:40 / /srv/b rw shared:7 master:2 - tmpfs tmpfs rw
"""


@pytest.fixture
def loop() -> Iterator[Loop]:
    yield Loop()
    signal.set_wakeup_fd(-1)


def die(policy: RestartPolicy, lived_s: float = 0.1, *, was_ready: bool = False, killed: bool = False) -> float:
    return policy.delay_s(lived_s=lived_s, was_ready=was_ready, killed=killed)


def test_a_child_that_was_killed_from_outside_starts_again_at_once_every_time() -> None:
    policy = RestartPolicy()

    assert [die(policy, was_ready=True, killed=True) for _ in range(50)] == [0.0] * 50
    assert not policy.is_crash_loop


def test_a_child_that_keeps_ending_gets_growing_pauses_up_to_a_limit() -> None:
    policy = RestartPolicy()

    pauses = [die(policy) for _ in range(12)]

    assert pauses[:4] == [0.0] * 4
    assert pauses[4:7] == [0.25, 0.5, 1.0]
    assert pauses[-1] == children.BACK_OFF_MAX_S
    assert policy.is_crash_loop


def test_a_child_that_lived_long_enough_starts_with_a_clean_slate() -> None:
    policy = RestartPolicy()
    for _ in range(8):
        die(policy)

    assert die(policy, lived_s=children.QUICK_S) == 0.0
    assert not policy.is_crash_loop


def test_a_child_that_was_killed_before_it_was_ready_counts_as_ending_by_itself() -> None:
    policy = RestartPolicy()

    assert [die(policy, killed=True) for _ in range(5)][-1] > 0


def test_an_exit_status_is_told_in_words() -> None:
    assert children.describe(signal.SIGKILL) == "killed by SIGKILL"
    assert children.describe(3 << 8) == "exit status 3"


def test_the_words_are_those_of_the_shared_memory() -> None:
    own = {name: value for name, value in vars(words).items() if name.isupper() and name != "SIZE"}

    assert words.SIZE == shared.SIZE
    assert own == {name: getattr(shared.NodeWord, name) for name in own}


def test_a_word_that_the_supervisor_writes_is_read_by_the_others() -> None:
    mine = words.SharedWords()
    mine[words.MOUNT_PID] = 4711

    assert shared.State(mine.state_fd).node[shared.NodeWord.MOUNT_PID] == 4711


def test_the_bells_ring_both_children() -> None:
    mine = words.SharedWords()
    mine.ring()

    assert [os.eventfd_read(fd) for fd in mine.bells.values()] == [1, 1]


def test_the_mount_table_is_read_with_its_escapes() -> None:
    mounts = mountpoint.parse_mountinfo(MOUNTINFO)

    assert [(m.point, m.kind) for m in mounts] == [
        ("/", "ext4"),
        ("/srv/my data", "fuse.sqlitecluster"),
        ("/srv/b", "tmpfs"),
    ]
    assert mounts[1].device == "0:39"


@pytest.mark.parametrize(
    ("flags", "flags2", "can"),
    [(1 << 30, 1 << 7, True), (1 << 30, 0, False), (0, 1 << 7, False), (0xFFFFFFFF, 0xFFFFFFFF, True)],
)
def test_resending_is_believed_only_with_both_flags_of_init(flags: int, flags2: int, *, can: bool) -> None:
    init = bytes(40) + struct.pack("<IIIIII", 7, 41, 0, flags, flags2, 0)

    assert mountpoint.can_resend(init) is can


def test_a_folder_without_a_mount_is_neither_dead_nor_used(tmp_path: Path) -> None:
    assert not mountpoint.is_dead(str(tmp_path))
    assert mountpoint.mounts_at(str(tmp_path)) == []


def test_users_of_a_folder_are_found_by_their_open_files(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w"):
        assert os.getpid() in mountpoint.users(str(tmp_path))
    assert os.getpid() not in mountpoint.users(str(tmp_path))


def test_a_folder_with_a_similar_name_is_not_the_same(tmp_path: Path) -> None:
    with (tmp_path / "open").open("w"):
        assert os.getpid() not in mountpoint.users(str(tmp_path / "op"))


def test_a_log_line_has_time_level_node_source_and_code() -> None:
    line = Style("n1", "text", colour=False).line("warning", "supervisor[1]", "it rained", code="NoSpace", now=0.25)

    assert line == "1970-01-01T00:00:00.250Z warning n1 supervisor[1]: it rained [NoSpace]"


def test_a_log_line_as_json_has_the_same_fields() -> None:
    line = Style("n1", "json", colour=True).line("error", "mount", 'say "no"', code="MountFailed", now=1.0)

    assert json.loads(line) == {
        "time": "1970-01-01T00:00:01.000Z",
        "level": "error",
        "node": "n1",
        "source": "mount",
        "message": 'say "no"',
        "code": "MountFailed",
    }


def test_the_log_leaves_out_what_is_below_its_level(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    log = Log(Style("n1", "text", colour=False), "warning")

    log.say("info", "small talk")
    log.say("error", "trouble")

    assert "small talk" not in out.getvalue() and "trouble" in out.getvalue()


def test_the_pids_file_is_replaced_as_a_whole_and_leaves_out_what_does_not_run(tmp_path: Path) -> None:
    pids = PidFile(str(tmp_path))
    pids.write({"supervisor": 1, "mount": 0})
    first = (tmp_path / "pids.json").stat().st_ino
    pids.write({"supervisor": 1, "mount": 5})

    assert json.loads((tmp_path / "pids.json").read_text()) == {"supervisor": 1, "mount": 5}
    assert (tmp_path / "pids.json").stat().st_ino != first
    pids.remove()
    assert list(tmp_path.iterdir()) == []


def test_the_loop_calls_back_for_readable_descriptors_until_unwatched(loop: Loop) -> None:
    read, write = os.pipe()
    seen: list[bytes] = []
    loop.watch(read, lambda: seen.append(os.read(read, 10)))
    os.write(write, b"a")
    loop.step(10)
    loop.unwatch(read)
    os.write(write, b"b")
    loop.step(0)

    assert seen == [b"a"]


def test_timers_fire_in_their_order_and_only_once(loop: Loop) -> None:
    seen: list[str] = []
    loop.call_later(0.002, lambda: seen.append("second"))
    loop.call_later(0.0, lambda: seen.append("first"))
    cancelled = loop.call_later(0.0, lambda: seen.append("never"))
    cancelled.cancel()

    assert loop.wait_until(lambda: len(seen) == 2, 30)
    assert seen == ["first", "second"]


def test_signals_are_handled_in_the_loop(loop: Loop) -> None:
    seen: list[str] = []
    before = signal.getsignal(signal.SIGHUP)
    loop.on_signal(signal.SIGHUP, lambda: seen.append("hup"))
    os.kill(os.getpid(), signal.SIGHUP)

    assert loop.wait_until(lambda: bool(seen), 30)
    signal.signal(signal.SIGHUP, before)


def test_waiting_ends_at_its_limit(loop: Loop) -> None:
    assert not loop.wait_until(lambda: False, 0.001)
