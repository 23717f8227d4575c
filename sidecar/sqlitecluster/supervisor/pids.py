"""``<data>/pids.json``: the processes of one node, for tests, tools and ``/info``."""

from __future__ import annotations

import contextlib
import json
import os


class PidFile:
    """The file, rewritten as a whole at each change."""

    def __init__(self, data_dir: str) -> None:
        self._path = os.path.join(data_dir, "pids.json")
        self._last: dict[str, int] = {}

    def write(self, pids: dict[str, int]) -> None:
        """Replace the content, atomically; a process that does not run now is left out."""
        running = {name: pid for name, pid in pids.items() if pid}
        if running == self._last:
            return
        temporary = self._path + ".new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC  # the folder may be a worker's
        with os.fdopen(os.open(temporary, flags, 0o644), "w", encoding="ascii") as file:
            json.dump(running, file)
        os.replace(temporary, self._path)
        self._last = running

    def remove(self) -> None:
        """The node has stopped."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
