"""Every error this package raises on purpose, each with a stable code.

SQLiteClusterError          Internal
├─ FormatError              bytes that are not what they claim to be      (field, value, why)
│  ├─ LTXError              … in an LTX file
│  ├─ WALError              … in a write-ahead log or a wal-index
│  ├─ JournalError          … in a rollback journal
│  ├─ WireError             … in a frame of a stream between nodes
│  └─ NotADatabase          … in what should be a SQLite database
├─ LimitError               a length or count beyond what is accepted, refused before allocation
├─ StoreError               this node's disk
│  ├─ CorruptLTX · CorruptStore · NoSpace · StoreLocked
│  └─ NoSuchDatabase · DatabaseExists · BadName · NoSuchTransaction
├─ PositionMismatch         histories that do not meet                    (have, want)
│  └─ Diverged              two histories under the same transaction id
├─ RoleError                not ours to do
│  └─ NotPrimary · NoPrimary · PrimaryExists · ReadOnlyReplica · LeaseExpired · NotCandidate · StaleEpoch · NoWriteLock
├─ ClusterMismatch          a peer, or a data directory, of another cluster
├─ IdentityError            no certificate, or none that others accept
├─ ConfigError · MountError                     the node cannot start as asked
├─ PreflightError           something is missing on this machine
│  └─ NoFuseDevice · NotPermitted · BadFolder · MountPointInUse · AddressInUse
├─ StreamError · Unavailable · TooSlow          another process or node
└─ LockTimeout · WaitTimeout                    not within the time given

Rules:
    1. ``code`` is the same in JSON, HTTP answers, logs and ``docs/errors.md``; it never changes.
    2. ``http_status`` and ``exit_code`` are the only translation of an error; no other table exists.
    3. A message is for a person who has not read the code.

Used by everything. ``TABLE`` maps each code to its class; ``from_wire`` makes the
error again that another process reported as ``{"code", "message"}``.
"""

from __future__ import annotations

from typing import ClassVar, Final

EXIT_FAILURE: Final = 1
EXIT_CONFIG: Final = 2
EXIT_NOT_FOUND: Final = 3
EXIT_REFUSED: Final = 4
EXIT_UNAVAILABLE: Final = 5
EXIT_BAD_INPUT: Final = 6
EXIT_NO_SPACE: Final = 7


class SQLiteClusterError(Exception):
    """Base of all deliberate errors; catch it only at a boundary."""

    code: ClassVar[str] = "Internal"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = EXIT_FAILURE
    meaning: ClassVar[str] = "An error without a code of its own."

    def __init__(self, message: str = "") -> None:
        self.message = message or self.meaning
        super().__init__(self.message)

    def to_wire(self) -> dict[str, str]:
        """The form that HTTP answers and ``-o json`` carry."""
        return {"code": self.code, "message": self.message}


class FormatError(SQLiteClusterError):
    """Bytes that are not what they claim to be."""

    code = "InvalidFormat"
    http_status = 400
    exit_code = EXIT_BAD_INPUT
    meaning = "Bytes are not in the format that they claim to be in."
    subject: ClassVar[str] = "input"

    def __init__(self, field: str, value: object = None, why: str = "") -> None:
        self.field, self.value, self.why = field, value, why
        super().__init__(f"{self.subject}: {field}={value!r}: {why}" if why else field)


class LTXError(FormatError):
    code = "InvalidLTX"
    meaning = "An LTX file breaks a rule of its format, or its checksum is wrong."
    subject = "LTX"


class WALError(FormatError):
    code = "InvalidWAL"
    meaning = "A write-ahead log or a wal-index breaks a rule of its format."
    subject = "WAL"


class JournalError(FormatError):
    code = "InvalidJournal"
    meaning = "A rollback journal breaks a rule of its format."
    subject = "journal"


class WireError(FormatError):
    code = "InvalidFrame"
    meaning = "A stream between nodes holds bytes that are no legal frame."
    subject = "stream"


class NotADatabase(FormatError):
    code = "NotADatabase"
    meaning = "A file does not have the header of a SQLite database. It is never wiped or replaced."
    subject = "database"


class LimitError(SQLiteClusterError):
    """A length or count that is refused before memory is allocated for it."""

    code = "LimitExceeded"
    http_status = 413
    exit_code = EXIT_BAD_INPUT
    meaning = "A length or count is larger than what is accepted; nothing was allocated for it."


class StoreError(SQLiteClusterError):
    """This node's disk."""

    code = "StoreError"
    meaning = "Reading or writing the data directory failed."


class CorruptLTX(StoreError):
    code = "CorruptLTX"
    exit_code = EXIT_BAD_INPUT
    meaning = "A stored LTX file is damaged. It is moved to lost+found; the node goes on without it."


class CorruptStore(StoreError):
    code = "CorruptStore"
    meaning = "A file of the data directory is damaged in a way that is never repaired in silence."


class NoSpace(StoreError):
    code = "NoSpace"
    http_status = 507
    exit_code = EXIT_NO_SPACE
    meaning = "The disk is full, or has less free space than is kept for capture."


class StoreLocked(StoreError):
    code = "StoreLocked"
    http_status = 409
    exit_code = EXIT_REFUSED
    meaning = "Another node process uses this data directory."


class NoSuchDatabase(StoreError):
    code = "NoSuchDatabase"
    http_status = 404
    exit_code = EXIT_NOT_FOUND
    meaning = "There is no database of this name."


class DatabaseExists(StoreError):
    code = "DatabaseExists"
    http_status = 409
    exit_code = EXIT_REFUSED
    meaning = "There is a database of this name already."


class BadName(StoreError):
    code = "BadName"
    http_status = 400
    exit_code = EXIT_BAD_INPUT
    meaning = (
        "Not a database name: 1 to 8 parts separated by '/', each of 1 to 127 printable characters, "
        "no part with a leading dot, and no ending -journal, -wal, -shm, -pos or -lock; at most 255 bytes in all, "
        "where any character but A-Z a-z 0-9 . _ - ~ counts 3 for each of its UTF-8 bytes, and '/' 3."
    )


class NoSuchTransaction(StoreError):
    code = "NoSuchTransaction"
    http_status = 404
    exit_code = EXIT_NOT_FOUND
    meaning = "The transaction is not stored (any more); a snapshot is needed instead."


class PositionMismatch(SQLiteClusterError):
    """Histories that do not meet; nothing was changed."""

    code = "PositionMismatch"
    http_status = 409
    exit_code = EXIT_REFUSED
    meaning = "A transaction does not continue from the position that the database is at."

    def __init__(self, have: object, want: object = None) -> None:
        self.have, self.want = have, want
        super().__init__(str(have) if want is None else f"the database is at {have}, the transaction continues {want}")


class Diverged(PositionMismatch):
    code = "Diverged"
    meaning = "Two nodes hold different transactions under the same id. The replica's own tail goes to lost+found."


class RoleError(SQLiteClusterError):
    """Something that this node's role does not allow."""

    code = "WrongRole"
    http_status = 503
    exit_code = EXIT_REFUSED
    meaning = "This node's role does not allow that."


class NotPrimary(RoleError):
    code = "NotPrimary"
    meaning = "Only the primary can do that; ask the node that .primary names."


class NoPrimary(RoleError):
    code = "NoPrimary"
    exit_code = EXIT_UNAVAILABLE
    meaning = "No primary is known at the moment."


class PrimaryExists(RoleError):
    code = "PrimaryExists"
    http_status = 409
    meaning = "Another node is the primary."


class ReadOnlyReplica(RoleError):
    code = "ReadOnlyReplica"
    http_status = 403
    meaning = "This node is a replica; programs cannot write here."


class LeaseExpired(RoleError):
    code = "LeaseExpired"
    exit_code = EXIT_UNAVAILABLE
    meaning = "The lease that allows writing ended, or could not be proved in time."


class NotCandidate(RoleError):
    code = "NotCandidate"
    http_status = 409
    meaning = "This node may not become the primary."


class StaleEpoch(RoleError):
    code = "StaleEpoch"
    http_status = 409
    meaning = "The epoch is not newer than every epoch that this node has seen."


class NoWriteLock(RoleError):
    code = "NoWriteLock"
    http_status = 409
    meaning = "The write lock is not held, is held by another node, or ended."


class ClusterMismatch(SQLiteClusterError):
    code = "ClusterMismatch"
    http_status = 409
    exit_code = EXIT_REFUSED
    meaning = "The other side belongs to another cluster. `sqlitecluster cluster-id adopt` joins this node on purpose."


class IdentityError(SQLiteClusterError):
    code = "NoCertificate"
    http_status = 503
    exit_code = EXIT_UNAVAILABLE
    meaning = "This node has no certificate that others accept, or cannot renew it."


class ConfigError(SQLiteClusterError):
    code = "InvalidConfig"
    http_status = 400
    exit_code = EXIT_CONFIG
    meaning = "The configuration is not legal."


class PreflightError(SQLiteClusterError):
    code = "PreflightFailed"
    exit_code = EXIT_CONFIG
    meaning = "Something that the node needs is missing on this machine: a device, a right, a free port, a folder."


class NoFuseDevice(PreflightError):
    code = "NoFuseDevice"
    meaning = "/dev/fuse is missing or may not be opened. Load the fuse module, or give the container the device."


class NotPermitted(PreflightError):
    code = "NotPermitted"
    meaning = "A right is missing: mounting needs root or CAP_SYS_ADMIN, folders need to be writable."


class BadFolder(PreflightError):
    code = "BadFolder"
    meaning = "A folder cannot be used as asked: no folder, not empty, or data and mount lie in one another."


class MountPointInUse(PreflightError):
    code = "MountPointInUse"
    http_status = 409
    exit_code = EXIT_REFUSED
    meaning = "Something is mounted at the mount point already."


class AddressInUse(PreflightError):
    code = "AddressInUse"
    http_status = 409
    exit_code = EXIT_REFUSED
    meaning = "Another program listens on an address of the configuration, or this machine does not have the address."


class MountError(SQLiteClusterError):
    code = "MountFailed"
    exit_code = EXIT_UNAVAILABLE
    meaning = "The mount could not be made, taken over or removed."


class StreamError(SQLiteClusterError):
    code = "StreamBroken"
    http_status = 502
    exit_code = EXIT_UNAVAILABLE
    meaning = "The stream from another node ended early or was refused."


class Unavailable(SQLiteClusterError):
    code = "Unavailable"
    http_status = 503
    exit_code = EXIT_UNAVAILABLE
    meaning = "The node, or a process of it, does not answer now; try again."


class TooSlow(SQLiteClusterError):
    code = "TooSlow"
    http_status = 503
    exit_code = EXIT_UNAVAILABLE
    meaning = "A subscriber fell too far behind and was closed."


class LockTimeout(SQLiteClusterError):
    code = "LockTimeout"
    http_status = 503
    exit_code = EXIT_UNAVAILABLE
    meaning = "A lock on the database was not free within the time given."


class DrainTimeout(LockTimeout):
    code = "DrainTimeout"
    meaning = "A program kept a write transaction open for longer than the hand-off may wait."


class WaitTimeout(SQLiteClusterError):
    code = "WaitTimeout"
    http_status = 504
    exit_code = EXIT_UNAVAILABLE
    meaning = "The position was not reached within the time given."


def _tree(root: type[SQLiteClusterError]) -> list[type[SQLiteClusterError]]:
    found = [root]
    for child in root.__subclasses__():
        found += _tree(child)
    return found


TABLE: Final[dict[str, type[SQLiteClusterError]]] = {error.code: error for error in _tree(SQLiteClusterError)}


def from_wire(code: str, message: str) -> SQLiteClusterError:
    """The error that another process reported; an unknown code becomes the base class."""
    kind = TABLE.get(code, SQLiteClusterError)
    error = kind.__new__(kind)
    SQLiteClusterError.__init__(error, message)
    return error
