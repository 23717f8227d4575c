"""Commits that are held back until the replicator says that they may be completed.

Used by ``tracked`` while the word ``HOLD`` is set. In WAL mode the bytes that complete a
commit wait in a file on tmpfs (``<runtime>/held/<slot>``); in rollback modes the changed
pages wait in a spool and the program waits in the fsync before its journal ends.

Rules:
    1. A held commit is one number, ``HELD_SEQ``. Its program is answered once the replicator
       has stored it in ``HELD_DONE`` or ``HELD_FAILED``, or at a deadline; ``HELD_OVER`` says
       that it was answered, ``HELD_WRITTEN`` that the commit is complete.
    2. What failed leaves nothing in the log that a later recovery could take for a commit.
    3. The same request again (after a take-over) waits for the same number.
"""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING, Final

from sqlitecluster.mount.buffers import Data
from sqlitecluster.mount.parking import Park
from sqlitecluster.shared import HELD_SPOOL, HELD_WAL, NodeWord, Word

if TYPE_CHECKING:
    from sqlitecluster.mount.database import Database

_GRACE_S: Final = 2.0
"""The replicator judges first; this is for one that says nothing."""


def is_on(database: Database) -> bool:
    """Whether commits of this node are held back now."""
    return bool(database.context.state.node[NodeWord.HOLD])


def wal(database: Database, offset: int, data: Data) -> bool:
    """Hold the bytes that complete a commit; True once they may be written.

    Raises:
        OSError: EIO, they may not.
    """
    words = database.words
    if database.held_fd < 0:
        path = database.context.layout.held(database.slot)
        database.held_fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if _is_waiting(database, HELD_WAL, offset) and os.pread(database.held_fd, len(data), 0) == data:
        return _judged(database)
    os.pwrite(database.held_fd, data, 0)
    _announce(database, HELD_WAL, offset, len(data))
    database.touch()
    return bool(words[Word.HELD_DONE] == words[Word.HELD_SEQ])


def spool(database: Database, number: int) -> None:
    """The spool ``number``, which is announced after this, is a commit that waits."""
    _announce(database, HELD_SPOOL, number, 0)


def waits_for_spool(database: Database) -> bool:
    """Whether a rollback-mode commit of this database waits."""
    words = database.words
    return bool(words[Word.HELD_SEQ] != words[Word.HELD_OVER] and words[Word.HELD_KIND] == HELD_SPOOL)


def waits(database: Database) -> bool:
    """Whether a held commit of this database was not judged yet."""
    words = database.words
    seq = words[Word.HELD_SEQ]
    return bool(seq not in (words[Word.HELD_OVER], words[Word.HELD_DONE], words[Word.HELD_FAILED]))


async def judged(database: Database) -> None:
    """Until the held commit may be completed, or not, or too much time has passed."""
    words = database.words
    seq = int(words[Word.HELD_SEQ])
    limit_s = database.context.state.node[NodeWord.HOLD_MS] / 1000 + _GRACE_S
    if not await Park(lambda: max(words[Word.HELD_DONE], words[Word.HELD_FAILED]) >= seq, time.monotonic() + limit_s):
        over(database)
        raise OSError(errno.EIO, "the commit was not acknowledged in time")


def passed(database: Database) -> None:
    """After ``judged``.

    Raises:
        OSError: EIO: it was not acknowledged.
    """
    _judged(database)


def over(database: Database) -> None:
    """The program of the held commit is about to be told that it failed."""
    database.words[Word.HELD_OVER] = database.words[Word.HELD_SEQ]
    database.touch()


def written(database: Database) -> None:
    """The held commit is complete; call it before the program is answered."""
    words = database.words
    seq = words[Word.HELD_SEQ]
    words[Word.HELD_WRITTEN] = seq
    words[Word.HELD_OVER] = seq


def journal_ended(database: Database) -> None:
    """A journal ended with nothing written since its commit was acknowledged."""
    words = database.words
    if words[Word.HELD_KIND] == HELD_SPOOL and words[Word.HELD_DONE] == words[Word.HELD_SEQ]:
        words[Word.HELD_WRITTEN] = words[Word.HELD_SEQ]


def answered(database: Database) -> None:
    """A rollback-mode commit was acknowledged: its fsync is answered, its journal may end."""
    database.words[Word.HELD_OVER] = database.words[Word.HELD_SEQ]


def _is_waiting(database: Database, kind: int, at: int) -> bool:
    words = database.words
    return bool(
        words[Word.HELD_SEQ] != words[Word.HELD_OVER]
        and words[Word.HELD_KIND] == kind
        and words[Word.HELD_AT] == at
        and words[Word.HELD_GEN] == words[Word.WAL_GEN]
    )


def _announce(database: Database, kind: int, at: int, length: int) -> None:
    words = database.words
    words[Word.HELD_KIND], words[Word.HELD_AT], words[Word.HELD_LEN] = kind, at, length
    words[Word.HELD_GEN] = words[Word.WAL_GEN]
    words[Word.HELD_SEQ] += 1


def _judged(database: Database) -> bool:
    """True: it may be completed; False: nobody has said yet.

    Raises:
        OSError: EIO, it may not.
    """
    words = database.words
    seq = words[Word.HELD_SEQ]
    if words[Word.HELD_FAILED] == seq:
        over(database)
        raise OSError(errno.EIO, "the commit was not acknowledged by enough replicas")
    if words[Word.HELD_DONE] != seq:
        return False
    if database.context.is_fenced:
        over(database)
        database.context.check_fence()
    return True
