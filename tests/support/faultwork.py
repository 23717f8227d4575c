"""Work of a store while its disk fails: what must hold during the fault, after it, and after a power cut.

``injected`` does a trace of ``storetrace`` with one fault at the n-th call, and raises ``storeoracle.Wrong``:

    1. An error is one that has a name: of this package, or of the operating system; a full
       disk is NoSpace.
    2. After it a database is where it was, or where it would have been without the fault.
    3. When the fault is over, work goes on, and what is synced then is durable.
    4. What was promised is there after a power cut; what a failed sync covered does not count.
    5. No descriptor is left open.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from sqlitecluster.errors import NoSpace, SQLiteClusterError
from support.crashdisk import KILL, LOST, Content, Disk, Recorder
from support.storeoracle import Boot, Check, Expected, Wrong, write_content
from support.storetrace import NODE_ID, Base, Note, Profile, Work
from support.syscalls import FULL, Calls, failure

ERRORS: Final = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EMFILE": errno.EMFILE}
_TAKES_ROOM: Final = ("open", "write", "allocate", "mkdir", "rename", "link")


@dataclass(slots=True)
class Fault:
    """Fails calls from the n-th on: one, or all of them until ``over``."""

    nth: int = 0
    number: int = 0
    """errno; 0: a short write, which is no error."""
    for_ever: bool = False
    seen: int = 0
    fired: int = 0
    last: str = ""

    def __call__(self, call: str, path: str) -> int | None:
        self.seen += 1
        if not self.nth or self.seen < self.nth or (self.fired and not self.for_ever):
            return None
        if self.number in FULL and call not in _TAKES_ROOM:
            return None
        if self.number == errno.EMFILE and not call.startswith("open"):
            return None
        if not self.number and call != "write":
            return None
        self.fired += 1
        self.last = f"{call} {path}"
        if not self.number:
            return 509 if self.for_ever else 1
        raise failure(self.number)

    def over(self) -> None:
        """From now on all is well."""
        self.nth = 0


class FaultyWork(Work):
    """Goes on after a step that failed, as a node does."""

    def attempt(self, name: str, fault: Fault) -> None:
        """One step, which may fail with an error that has a name."""
        with self.refused(fault):
            self.step(name)

    @contextlib.contextmanager
    def refused(self, fault: Fault | None) -> contextlib.AbstractContextManager[None]:  # type: ignore[misc]
        """Where errors with a name are expected."""
        try:
            yield
        except (SQLiteClusterError, OSError) as error:
            if fault is not None and not fault.fired:
                raise
            if isinstance(error, OSError) and error.errno in FULL:
                raise Wrong(f"a full disk came as {error!r}, not as NoSpace") from error
            if fault is not None and fault.number in FULL and not isinstance(error, NoSpace):
                raise Wrong(f"a full disk came as {error!r}") from error
            for base in self.bases.values():
                self._look(base)

    def _look(self, base: Base) -> None:
        db = base.model.store
        for point in reversed(base.points):
            if point.position == db.position:
                base.model.pages, base.model.page_size = dict(point.pages), point.page_size
                return
        raise Wrong(f"{base.name}: after the error it is at {db.position}")

    def go_on(self) -> None:
        """The fault is over: everything can be done, and is durable afterwards."""
        first = next(iter(self.bases.values()))
        for base in self.bases.values():
            self.append(base)
        with contextlib.suppress(OSError):  # what a failed sync covered is in doubt until it is cut
            self.sync(first)
            return
        for base in self.bases.values():
            self.cut(base)
        self.sync(first)
        for base in self.bases.values():
            self.append(base)
        self.sync(first)


def count_calls(folder: Path, profile: Profile, seed: object, boot: Boot) -> int:
    """How many calls the trace makes when nothing fails."""
    fault = Fault()
    with _Injection(folder, profile, seed, boot, fault) as injection:
        injection.work()
    return fault.seen


def injected(
    folder: Path, scratch: Callable[[], Path], profile: Profile, seed: object, boot: Boot, fault: Fault
) -> bool:
    """The trace with a fault, and all checks; False when the fault never came."""
    before = _descriptors()
    with _Injection(folder, profile, seed, boot, fault) as injection:
        injection.work()
        if not fault.fired:
            return False
        fault.over()
        injection.go_on()
    if _descriptors() > before:
        raise Wrong(f"{_descriptors() - before} descriptors are left open")
    for how in (LOST, KILL):
        boot.number = 2 if how == LOST else 1
        check = Check(scratch(), injection.bases, injection.expected(), killed=how == KILL, is_replica=profile.replica)
        write_content(check.folder, injection.content(how))
        check.run(go_on=how == LOST)
    return True


class _Injection:
    """One trace under a fault."""

    def __init__(self, folder: Path, profile: Profile, seed: object, boot: Boot, fault: Fault) -> None:
        self._folder, self._profile, self._fault = folder, profile, fault
        self._rng = random.Random(f"{seed}")
        boot.number = 1
        (folder / "node-id").write_text(f"{NODE_ID}\n")
        self._recorder = Recorder(folder)
        self._calls = Calls(folder, self._recorder)
        self._work: FaultyWork | None = None

    def __enter__(self) -> Self:
        self._calls.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._calls.__exit__(None, None, None)
        if self._work is not None:
            self._work.end()

    @property
    def bases(self) -> dict[str, Base]:
        return self._work.bases if self._work is not None else {}

    def work(self) -> None:
        """The steps of the profile; the fault may come from the first one on."""
        work = self._work = FaultyWork(self._folder, self._recorder, self._rng, self._profile)
        self._calls.fault = self._fault
        names, weights = list(self._profile.steps), list(self._profile.steps.values())
        for _ in range(self._profile.count):
            work.attempt(self._rng.choices(names, weights)[0], self._fault)

    def go_on(self) -> None:
        """After the fault."""
        assert self._work is not None
        for base in self.bases.values():
            self._work._look(base)
        self._work.go_on()
        self._recorder.note(None)

    def expected(self) -> Expected:
        """What was promised."""
        heard = Expected()
        for op in self._recorder.ops:
            if isinstance(op.note, Note):
                heard.hear(op.note)
        return heard

    def content(self, how: str) -> Content:
        """What is left when the machine, or the process, ends now."""
        disk = Disk()
        for op in self._recorder.ops:
            disk.play(op)
        return disk.after(how, self._rng)


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
