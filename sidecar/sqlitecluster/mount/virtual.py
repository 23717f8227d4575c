"""Files that exist only as answers: ``.primary``, ``.role``, ``.lag``, ``<database>-pos``.

They are readable, hidden from listings, and removing them does nothing. Contents come
from shared memory at each read. Formats as LiteFS writes them, so that programs made
for it keep working.
"""

from __future__ import annotations

from typing import Final

from sqlitecluster.mount.layout import POSITION_SUFFIX
from sqlitecluster.shared import ROLE_FENCED, ROLE_NAMES, ROLE_PRIMARY, NodeWord, State
from sqlitecluster.units import format_position

INODE_BIT: Final = 1 << 61
_NODE_FILES: Final = {".primary": 1, ".role": 2, ".lag": 3}
_FIRST_SLOT: Final = 16


def inode(state: State, path: str) -> int | None:
    """The inode number of a virtual path; None when it does not exist now."""
    number = _NODE_FILES.get(path)
    if number is not None:
        return INODE_BIT | number if content(state, INODE_BIT | number) is not None else None
    slot = state.find(path[: -len(POSITION_SUFFIX)])
    return None if slot is None else INODE_BIT | (_FIRST_SLOT + slot)


def content(state: State, ino: int) -> bytes | None:
    """The bytes of a virtual file; None when it does not exist now."""
    number = ino & (INODE_BIT - 1)
    role = int(state.node[NodeWord.ROLE])
    if number == 1:
        name = state.primary_name()
        return f"{name}\n".encode() if role not in (ROLE_PRIMARY, ROLE_FENCED) and name else None
    if number == 2:
        return f"{ROLE_NAMES[role]}\n".encode()
    if number == 3:
        lag_ms = 0 if role == ROLE_PRIMARY else int(state.node[NodeWord.LAG_MS])
        return b"%+010d\n" % lag_ms
    txid, checksum, *_ = state.position(number - _FIRST_SLOT)
    return f"{format_position(txid, checksum)}\n".encode()
