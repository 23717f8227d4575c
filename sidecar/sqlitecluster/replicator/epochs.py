"""The newest epoch this node has seen or begun, kept in ``<data>/epoch``.

Called when this node becomes the primary (``begin``), by the stream client (``note``), and
when a candidate asks for this node's position (``promise``).

Rules: strictly increasing, whatever threads ask at once; durable before anything of the epoch is sent or taken.
"""

from __future__ import annotations

import threading

from sqlitecluster.errors import CorruptStore, StaleEpoch
from sqlitecluster.store.node import NodeStore


class EpochFile:
    """The epoch of one node."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._path = store.data_dir / "epoch"
        self._lock = threading.RLock()
        self.value = self._read()
        self.used = self.value
        """The newest that certainly has, or may have had, a primary: promises alone do not count."""

    def begin(self, epoch: int | None = None) -> int:
        """A new epoch (the next, unless it is given): this node is the primary.

        Raises:
            StaleEpoch: others may know a newer one, or this one with another primary.
        """
        with self._lock:
            epoch = self.value + 1 if epoch is None else epoch
            if epoch < self.value or epoch <= self.used:
                why = f"this node knows {self.value}, and {self.used} had a primary"
                raise StaleEpoch(f"epoch {epoch} is not new: {why}")
            self.note(epoch)
            return epoch

    def note(self, epoch: int) -> None:
        """Remember the epoch of a primary; older ones change nothing."""
        with self._lock:
            self.promise(epoch)
            self.used = max(self.used, epoch)

    def promise(self, epoch: int) -> None:
        """Remember an epoch that may begin: from now on nothing is taken from older ones."""
        with self._lock:
            if epoch > self.value:
                self._store.disk.write_file(self._path, (f"{epoch}\n".encode(),))
                self.value = epoch

    def _read(self) -> int:
        try:
            text = self._path.read_text().strip()
        except FileNotFoundError:
            return 0
        if not text.isdigit() or len(text) > 18:
            raise CorruptStore(f"{self._path}: {text[:64]!r} is not an epoch")
        return int(text)
