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
        with open(temporary, "w", encoding="ascii") as file:
            json.dump(running, file)
        os.replace(temporary, self._path)
        self._last = running

    def remove(self) -> None:
        """The node has stopped."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
