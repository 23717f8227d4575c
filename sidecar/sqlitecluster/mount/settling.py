"""Journals that were removed and whose files are kept: soon their end is durable, too.

A file system makes an unlink durable by itself within some seconds; the end of a kept
journal is bytes, which may stay in memory for half a minute. Until it is durable a power
cut can bring the journal back, and with it take back the commit that it belonged to.

Rules:
    1. What a program begins again within ``_SOON_S`` is left to that transaction's sync.
    2. The thread is started when first needed: the process is forked from the template.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Final

log = logging.getLogger(__name__)

_SOON_S: Final = 1.0


class Settling:
    """Paths of kept files, and when and by whom their journals were removed."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}
        self._removers: dict[str, int] = {}
        self.newest = ""
        self._some = threading.Event()
        self._thread: threading.Thread | None = None

    def removed(self, path: str) -> None:
        """A journal was removed and its file is kept."""
        self._since[path] = time.monotonic()
        self.newest = path
        if not self._some.is_set():
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="settle", daemon=True)
                self._thread.start()
            self._some.set()

    def removed_by(self, pid: int) -> None:
        """The newest one was removed by this thread of a program."""
        if self.newest:
            self._removers[self.newest] = pid
            self.newest = ""

    def forget(self, path: str) -> None:
        """The file serves the next transaction, or is gone."""
        self._since.pop(path, None)
        self._removers.pop(path, None)

    @property
    def some(self) -> bool:
        """Whether there are any."""
        return bool(self._since)

    def of(self, pid: int) -> list[str]:
        """Those that this thread, or nobody knows who, removed: with ``synchronous=EXTRA`` it waits for them."""
        return [path for path in list(self._since) if self._removers.get(path, pid) == pid]

    def found(self, path: str) -> None:
        """A successor found a kept file."""
        self.removed(path)
        self.newest = ""

    def settle(self, path: str) -> None:
        """[any thread] Make the end of one journal durable.

        Raises:
            OSError: it is not; it is tried again.
        """
        since = self._since.get(path)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        if since is not None and self._since.get(path) == since:
            self.forget(path)

    def close(self) -> None:
        """At the process's end."""
        self._settle_until(time.monotonic())

    def _work(self) -> None:
        while self._some.wait():
            time.sleep(_SOON_S / 2)
            self._settle_until(time.monotonic() - _SOON_S)
            self._some.clear()
            if self._since:
                self._some.set()

    def _settle_until(self, before: float) -> None:
        for path, since in list(self._since.items()):
            if since <= before:
                try:
                    self.settle(path)
                except OSError as error:
                    log.warning("the end of a journal could not be made durable: %s", error)
