"""What identity reads and keeps on disks.

``Projected`` is the folder that kubelet fills (token, trust bundles, URL); ``Kept`` is the
pod's own, on its volume, so that a restart needs nobody.

Rules:
    1. Key and certificate are one file, replaced by one rename: they always belong together.
    2. What is projected is read again each time: kubelet changes it whenever it likes.
    3. Files are bounded before they are read.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from sqlitecluster.errors import IdentityError
from sqlitecluster.tokens import TOKEN_BYTES_MAX, read_token

MAX_BYTES: Final = TOKEN_BYTES_MAX


def read(path: Path) -> bytes:
    """A small file.

    Raises:
        IdentityError: it cannot be read, is empty, or too large.
    """
    try:
        data = read_token(path)
    except OSError as error:
        raise IdentityError(f"cannot read {path}: {error.strerror}") from error
    if not data.strip() or len(data) > MAX_BYTES:
        raise IdentityError(f"{path} is {'too large' if data.strip() else 'empty'}")
    return data


class Projected:
    """``token``, ``ca.crt``, ``operator-ca.crt``, ``operator-url``."""

    def __init__(self, folder: Path, url: str = "") -> None:
        self._folder, self._url = folder, url

    def trust(self) -> bytes:
        """Authorities of the cluster."""
        return read(self._folder / "ca.crt")

    def operator_trust(self) -> bytes:
        """Authorities of the operator's endpoint."""
        return read(self._folder / "operator-ca.crt")

    def url(self) -> str:
        """Where certificates are signed."""
        return self._url or read(self._folder / "operator-url").decode(errors="replace").strip()

    def token(self) -> str:
        """The pod's present token."""
        return read(self._folder / "token").decode(errors="replace").strip()


class Kept:
    """``<dataDir>/identity/pod.pem``."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir / "identity" / "pod.pem"

    def load(self) -> bytes | None:
        """Key and chain of an earlier life; None when there are none."""
        try:
            return read(self.path)
        except IdentityError:
            return None

    def save(self, pem: bytes) -> None:
        """Replace them, durably.

        Raises:
            OSError: the disk.
        """
        folder = self.path.parent
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = folder / "pod.pem.new"
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path)
        _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
