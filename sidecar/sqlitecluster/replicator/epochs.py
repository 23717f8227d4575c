"""The newest epoch this node has seen or begun, kept in ``<data>/epoch``.

Called once at the start of a primary (``begin``) and by the stream client (``note``).

Rules: strictly increasing; durable before anything of the epoch is sent or taken.
"""

from __future__ import annotations

from sqlitecluster.errors import CorruptStore
from sqlitecluster.store.node import NodeStore


class EpochFile:
    """The epoch of one node."""

    def __init__(self, store: NodeStore) -> None:
        self._store = store
        self._path = store.data_dir / "epoch"
        self.value = self._read()

    def begin(self) -> int:
        """A new epoch: this node starts as the primary."""
        self.note(self.value + 1)
        return self.value

    def note(self, epoch: int) -> None:
        """Remember a newer epoch; older ones change nothing."""
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
