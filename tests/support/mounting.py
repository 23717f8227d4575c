"""A mount process for tests: this plays the supervisor and, if asked, a replicator that captures at once.

Always use it as a context manager (or through the fixtures of ``unit/mounted``): it
unmounts and ends its process whatever happened.

Rule: a test that kills the mount process opens files of the mount in other processes
only (``support.program``). A child that is started to serve closes what it inherited,
and closing a mapped -shm writes it back, which needs the process that is being started.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Self

from sqlitecluster.shared import ROLE_PRIMARY, Bell, NodeWord, State, Word
from sqlitecluster.store.spool import spool_path

_LIBC = ctypes.CDLL(None, use_errno=True)
_NOSUID_NODEV = 2 | 4
_DETACH = 2
_LONG_S = 60  # a slow machine may take its time; nothing waits this long when all is well

_SERVE = """
import base64, json, logging, sys
from pathlib import Path
from sqlitecluster.config.model import NodeConfig
from sqlitecluster.mount import process
logging.basicConfig(level=logging.INFO)
told = json.loads(sys.argv[1])
paths = {key: Path(told["config"][key]) for key in ("data_dir", "mount_dir", "runtime_dir")}
config = NodeConfig(**{**told["config"], **paths})
process.run(config, told["fds"], base64.b64decode(told["init"]), told["successor"])
"""


def can_mount() -> bool:
    """Whether this machine lets us mount."""
    return os.geteuid() == 0 and os.access("/dev/fuse", os.R_OK | os.W_OK)


class MountedNode:
    """One mounted directory; ``mnt`` is where programs work."""

    def __init__(self, folder: Path, *, role: int = ROLE_PRIMARY, capture: bool = True, **config: Any) -> None:
        self.mnt, self.data = folder / "mnt", folder / "data"
        self.runtime = Path(tempfile.mkdtemp(prefix="sqlitecluster-test-", dir="/dev/shm"))
        self.mnt.mkdir(parents=True)
        self.data.mkdir()
        self.config = {"name": "node", "reserve_bytes": 1 << 16, "park_s": _LONG_S, **config}
        self.state_fd = State.create()
        self.state = State(self.state_fd)
        self.state.node[NodeWord.ROLE] = role
        self.state.node[NodeWord.RESENDING] = 1
        self.bells = {"bell_mount": Bell.create(), "bell_replicator": Bell.create()}
        self.replicator_bell = Bell(self.bells["bell_replicator"], self.state, NodeWord.REPLICATOR_SLEEPING)
        self._mount_bell = Bell(self.bells["bell_mount"], self.state, NodeWord.MOUNT_SLEEPING)
        self._supervisor, self._child_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lifeline = os.pipe()
        self._fuse = -1
        self._init = b""
        self._process: subprocess.Popen[bytes] | None = None
        self._served = False
        self._capturing = capture
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._capture, daemon=True)
        self.spools: list[bytes] = []

    def spool(self, slot: int, seq: int) -> Path:
        """Where a spool is: small ones are on tmpfs."""
        small = spool_path(self.runtime, slot, seq)
        return small if small.exists() else spool_path(self.data, slot, seq)

    def __enter__(self) -> Self:
        try:
            self._mount()
            self.serve()
        except BaseException:
            self.close()
            raise
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def serve(self) -> None:
        """Start a mount process; a second one is a successor."""
        fuse = os.dup(self._fuse)
        fds = {
            "state": self.state_fd,
            "sup": self._child_end.fileno(),
            "lifeline": self._lifeline[0],
            "fuse": fuse,
            **self.bells,
        }
        paths = {"data_dir": str(self.data), "mount_dir": str(self.mnt), "runtime_dir": str(self.runtime)}
        told = {
            "config": {**self.config, **paths},
            "fds": fds,
            "init": base64.b64encode(self._init).decode(),
            "successor": self._served,
        }
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", _SERVE, json.dumps(told)]
        self._process = subprocess.Popen(command, pass_fds=tuple(fds.values()), env=environment)
        os.close(fuse)
        self._supervisor.settimeout(_LONG_S)
        assert json.loads(self._supervisor.recv(1000))["op"] == "ready"
        self._served = True

    def kill(self, sig: int = signal.SIGKILL) -> None:
        """End the mount process; requests wait for the next ``serve``."""
        assert self._process is not None
        self._process.send_signal(sig)
        self._process.wait(_LONG_S)

    def wait_dead(self) -> None:
        """Until the mount process ended by itself."""
        assert self._process is not None
        self._process.wait(_LONG_S)

    def cut_lifeline(self) -> None:
        """What happens when the supervisor is killed."""
        os.close(self._lifeline[1])
        self._lifeline = (self._lifeline[0], os.open(os.devnull, os.O_RDONLY))

    def close(self) -> None:
        """Unmount and clean up."""
        self._stop.set()
        if self._fuse >= 0:
            _LIBC.umount2(os.fsencode(self.mnt), _DETACH)
            os.close(self._fuse)
            self._fuse = -1
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.terminate()
                self._process.wait(10)
            self._process.kill()
            self._process.wait()
        if self._thread.is_alive():
            self._thread.join()
        shutil.rmtree(self.runtime, ignore_errors=True)
        for fd in (*self._lifeline, *self.bells.values(), self.state_fd):
            os.close(fd)
        self._supervisor.close()
        self._child_end.close()

    def words(self, name: str) -> memoryview:
        """The slot of a database."""
        slot = self.state.find(name)
        assert slot is not None, f"no slot for {name}"
        return self.state.slot(slot)

    def wait_for(self, test: Any) -> None:
        """Until ``test()`` is true; fails after a time that no working test needs."""
        deadline = time.monotonic() + _LONG_S
        while not test():
            assert time.monotonic() < deadline, "nothing happened"
            time.sleep(0.002)

    def ring(self) -> None:
        """Wake the mount process."""
        self._mount_bell.ring()

    def capture_now(self) -> None:
        """What a replicator does that is always in time."""
        for slot in range(self.state.count):
            words = self.state.slot(slot)
            words[Word.CAPTURED_GEN] = words[Word.WAL_GEN]
            words[Word.CAPTURED_END] = words[Word.WAL_END]
            while words[Word.SPOOL_DONE] < words[Word.SPOOL_SEQ]:
                path = self.spool(slot, words[Word.SPOOL_DONE] + 1)
                self.spools.append(path.read_bytes())
                path.unlink()
                words[Word.SPOOL_DONE] += 1
        self.ring()

    def _capture(self) -> None:
        while not self._stop.is_set():
            if self._capturing:
                self.capture_now()
            self.replicator_bell.going_to_sleep()
            select.select([self.replicator_bell.fd], [], [], 0.005)
            self.replicator_bell.woke()

    def _mount(self) -> None:
        self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fuse},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
        point = os.fsencode(self.mnt)
        if _LIBC.mount(b"sqlitecluster", point, b"fuse.sqlitecluster", _NOSUID_NODEV, options.encode()):
            raise OSError(ctypes.get_errno(), "mount")
        self._init = os.read(self._fuse, 1 << 17)
        os.set_blocking(self._fuse, False)
