"""The supervisor with fake workers: what programs see when processes die, and what is left afterwards."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sqlitecluster.config.codec import config_to_json
from sqlitecluster.config.model import NodeConfig
from sqlitecluster.supervisor import mountpoint
from support import processes
from support.fakeworkers import CONTENT

LIMIT_S = 60.0
_KERNEL = tuple(int(part) for part in os.uname().release.split(".")[:2])
can_resend = pytest.mark.skipif(_KERNEL < (6, 9), reason="the kernel cannot resend requests")

_START = """
import sys
from sqlitecluster.supervisor import lock
from sqlitecluster.supervisor.lines import Log, Style
from sqlitecluster.supervisor.node import Inherited
from sqlitecluster.supervisor.process import Supervisor
from sqlitecluster.supervisor.settings import Settings
settings = Settings(sys.argv[1])
fds = Inherited(lock.acquire(settings.data_dir), 1)
log = Log(Style("n1", "text", colour=False), "debug")
sys.exit(Supervisor(settings, sys.argv[1], log, fds, template_module="support.fakeworkers").run())
"""


class FakeNode:
    """A real supervisor whose workers are fakes."""

    def __init__(self, folder: Path) -> None:
        self.mount, self.data, self.log = folder / "mnt", folder / "data", folder / "log"
        self.runtime = Path(tempfile.mkdtemp(prefix="sqlitecluster-test-", dir="/dev/shm"))
        self.data.mkdir()
        self.process: subprocess.Popen[bytes] | None = None

    def launch(self, *, resend: bool = True, **environment: str) -> None:
        config = NodeConfig(
            name="n1", data_dir=self.data, mount_dir=self.mount, runtime_dir=self.runtime, resend=resend
        )
        command = [sys.executable, "-c", _START, config_to_json(config)]
        self.process = processes.start(command, log=self.log, env=processes.environment(**environment))

    def start(self, *, resend: bool = True) -> None:
        self.launch(resend=resend)
        self.wait(lambda: self.said("in-sync"))

    def said(self, text: str) -> int:
        return self.log.read_text().count(text)

    def wait(self, condition: Callable[[], object]) -> None:
        assert processes.wait_until(lambda: bool(condition()), limit_s=LIMIT_S), self.log.read_text()

    def pids(self) -> dict[str, int]:
        try:
            found: dict[str, int] = json.loads((self.data / "pids.json").read_text())
        except FileNotFoundError:
            return {}
        return found

    def kill(self, name: str) -> None:
        """SIGKILL one process and wait for its successor."""
        old = self.pids()[name]
        os.kill(old, signal.SIGKILL)
        self.wait(lambda: self.pids().get(name, old) != old)

    def kill_all(self, *names: str) -> None:
        pids = self.pids()
        for name in names or pids:
            os.kill(pids[name], signal.SIGKILL)
        self.wait(lambda: not any(processes.alive(pids[name]) for name in names or pids))

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(LIMIT_S)

    def read(self) -> bytes:
        return (self.mount / "f").read_bytes()

    def clean(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(LIMIT_S)
        self.wait(lambda: not any(processes.alive(pid) for pid in self.pids().values()))
        with contextlib.suppress(FileNotFoundError):
            mountpoint.clean_up(str(self.mount))
        shutil.rmtree(self.runtime, ignore_errors=True)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    made = FakeNode(tmp_path)
    yield made
    made.clean()


def test_a_node_serves_its_mount_and_names_its_processes(node: FakeNode) -> None:
    node.start()

    assert node.read() == CONTENT
    assert set(node.pids()) == {"supervisor", "keeper", "template", "mount", "replicator"}
    assert node.said("mounted\n") == node.said("ready\n") == 1


@can_resend
def test_programs_only_see_a_pause_when_the_mount_process_dies(node: FakeNode) -> None:
    node.start()
    with (node.mount / "f").open("rb", buffering=0) as file:
        for _ in range(10):
            node.kill("mount")
            assert os.pread(file.fileno(), 100, 0) == CONTENT


@can_resend
def test_a_mount_process_that_dies_together_with_the_template_is_replaced(node: FakeNode) -> None:
    node.start()
    os.kill(node.pids()["template"], signal.SIGKILL)
    node.kill("mount")

    assert node.read() == CONTENT


def test_without_resending_the_node_mounts_anew_and_programs_reopen(node: FakeNode) -> None:
    node.start(resend=False)
    fd = os.open(node.mount / "f", os.O_RDONLY)
    node.kill("mount")
    with pytest.raises(OSError) as caught:
        os.pread(fd, 100, 0)
    with contextlib.suppress(OSError):  # closing tells the same
        os.close(fd)

    assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
    node.wait(lambda: node.said("programs must reopen"))
    assert node.read() == CONTENT
    assert len(mountpoint.mounts_at(str(node.mount))) == 1


def test_after_mounting_anew_the_replicator_starts_over_with_nothing_kept(node: FakeNode) -> None:
    node.start(resend=False)
    old = node.pids()["replicator"]
    node.kill("mount")
    node.wait(lambda: node.pids().get("replicator", old) != old)
    (node.data / "kept").unlink()
    node.kill("mount")
    node.wait((node.data / "kept").exists)

    assert (node.data / "kept").read_text() == ""
    assert not node.said("keeper")


def test_a_successor_of_the_replicator_gets_what_was_kept(node: FakeNode) -> None:
    node.start()
    for expected in ("0", "0 1", "0 1 2"):
        node.kill("replicator")
        node.wait(lambda e=expected: (node.data / "kept").read_text() == e)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["template", "keeper"])
def test_nobody_notices_when_a_helper_process_dies(node: FakeNode, name: str) -> None:
    node.start()
    others = {key: pid for key, pid in node.pids().items() if key != name}
    node.kill(name)

    assert {key: pid for key, pid in node.pids().items() if key != name} == others
    assert node.read() == CONTENT


def test_when_the_supervisor_is_killed_everything_ends_and_the_mount_is_dead(node: FakeNode) -> None:
    node.start()
    pids = node.pids()
    node.kill_all("supervisor")
    node.wait(lambda: not any(processes.alive(pid) for pid in pids.values()))

    assert mountpoint.is_dead(str(node.mount))


def test_the_next_start_clears_away_what_a_killed_node_left(node: FakeNode) -> None:
    node.start()
    node.kill_all()
    node.log.unlink()
    node.start()

    assert node.read() == CONTENT
    assert len(mountpoint.mounts_at(str(node.mount))) == 1


def test_a_node_ends_whole_when_everything_is_killed_while_nobody_answers_the_kernel(node: FakeNode) -> None:
    """The keeper's descriptors are closed while the mount is dead: that must not keep the connection alive."""
    node.start()
    pids = node.pids()
    os.kill(pids["supervisor"], signal.SIGSTOP)  # so that no successor is started
    os.kill(pids["mount"], signal.SIGKILL)
    time.sleep(0.05)
    for name in ("keeper", "replicator", "template", "supervisor"):
        os.kill(pids[name], signal.SIGKILL)

    node.wait(lambda: not any(processes.alive(pid) for pid in pids.values()))
    assert mountpoint.is_dead(str(node.mount))


def test_the_bare_folder_takes_no_files_until_the_clean_stop(node: FakeNode) -> None:
    node.start()
    node.kill_all()
    processes.unmount(node.mount)
    with pytest.raises(PermissionError):
        (node.mount / "lost").write_text("acknowledged, and hidden by the next mount")
    node.log.unlink()
    node.start()
    node.stop()

    (node.mount / "welcome").write_text("an ordinary folder again")


def test_a_clean_stop_leaves_nothing(node: FakeNode) -> None:
    node.start()
    pids = node.pids()

    assert node.stop() == 0
    assert mountpoint.mounts_at(str(node.mount)) == []
    assert not node.runtime.exists() and not (node.data / "pids.json").exists()
    assert not any(processes.alive(pid) for pid in pids.values())


def test_a_stop_says_who_still_uses_the_mount_and_goes_on(node: FakeNode) -> None:
    node.start()
    with (node.mount / "f").open("rb"):
        assert node.stop() == 0

    assert node.said(f"still used, and now cut off: {node.mount} by {os.getpid()}")
    assert node.runtime.exists()
    assert mountpoint.mounts_at(str(node.mount)) == []


@can_resend
def test_an_upgrade_replaces_the_code_under_open_files(node: FakeNode) -> None:
    node.start()
    before = node.pids()
    with (node.mount / "f").open("rb", buffering=0) as file:
        os.kill(before["supervisor"], signal.SIGHUP)
        for name in ("template", "mount", "replicator"):
            node.wait(lambda n=name: node.pids().get(n, before[n]) != before[n])  # type: ignore[misc]
        assert os.pread(file.fileno(), 100, 0) == CONTENT

    assert node.pids()["supervisor"] == before["supervisor"]


def test_a_mount_process_that_keeps_crashing_is_held_back_and_reported(node: FakeNode) -> None:
    node.launch(FAKE_MOUNT="crash")

    node.wait(lambda: node.said("it keeps ending, next start in 0.5 s [MountFailed]"))
    assert node.stop() == 0
    assert mountpoint.mounts_at(str(node.mount)) == []


def test_a_node_whose_code_cannot_be_imported_ends_with_an_error(node: FakeNode) -> None:
    node.launch(FAKE_MODULES="no_such_module")
    assert node.process is not None

    assert node.process.wait(LIMIT_S) == 1
    assert node.said("before it was ready [Unavailable]")


def test_a_node_whose_store_cannot_be_recovered_is_never_mounted(node: FakeNode) -> None:
    (node.data / "broken").touch()
    node.launch()
    assert node.process is not None

    assert node.process.wait(LIMIT_S) == 1
    assert node.said("recovery of the store failed (exit status 9) [StoreError]")
    assert not node.said("mounted\n")


def test_a_second_signal_hurries_the_stop(node: FakeNode) -> None:
    node.start()
    with (node.mount / "f").open("rb"):
        assert node.process is not None
        node.process.terminate()
        time.sleep(0.1)
        node.process.terminate()

        assert node.process.wait(LIMIT_S) == 0


def test_nobody_but_the_supervisor_and_the_mount_process_has_the_fuse_device(node: FakeNode) -> None:
    node.start()
    node.kill("replicator")
    node.kill("template")
    holders = set()
    for name, pid in node.pids().items():
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(fd) == "/dev/fuse":
                    holders.add(name)

    assert holders == {"supervisor", "mount"}
