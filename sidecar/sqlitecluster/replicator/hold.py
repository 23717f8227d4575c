"""The commit of one database that waits for acknowledgements, and what becomes of it.

Made by ``capture_database`` for each database; runs in the capture thread. At most one
commit is in flight per database: its program is parked (docs/decisions/0017).

    capture    the frames in the log and the bytes that the mount holds back make one transaction;
               it goes into the node's log and to the replicas
    release    enough members have it (``quorum``): the mount writes the bytes and answers
    commit     SQLite has published it: only now readers of replicas may see it
    take back  it was not acknowledged in time, or its program died before it published it: a
               transaction with the old content follows, so that log and image agree again

Rules:
    1. The capture mark moves when a commit is published, never before.
    2. ``in_flight`` of the store names the transaction from before it is appended until it is
       settled: whoever starts again knows that the image may be without it.
    3. Too few members connected: nothing is captured, the program waits and fails in time.
    4. Behind the fence no rollback-mode commit can be completed any more, acknowledged or not: its
       program is told at once, because it keeps the database locked until then.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlitecluster.config.runtime import runtime_dir
from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.ltx import HEADER_SIZE, Header, decode
from sqlitecluster.replicator.capture_content import WalContent, Window
from sqlitecluster.replicator.capture_group import take_group
from sqlitecluster.replicator.capture_image import Image, Shape, frames_of
from sqlitecluster.replicator.capture_large import publish_large
from sqlitecluster.replicator.capture_pace import NEVER, tail_pause
from sqlitecluster.replicator.capture_proof import QUIET_S, follows
from sqlitecluster.replicator.capture_publish import CapturedDatabase, WalSpan
from sqlitecluster.replicator.capture_wal import WalCapture
from sqlitecluster.replicator.flight import Flight, are_in_database, frame_end, void
from sqlitecluster.shared import HELD_WAL, ROLE_FENCED, NodeWord, Word
from sqlitecluster.sqlitefmt.wal import FRAME_HEADER_SIZE
from sqlitecluster.units import lock_page

if TYPE_CHECKING:
    from sqlitecluster.replicator.quorum import QuorumView

log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.005
_SPOOL_S: Final = 0.05
_WRITTEN_S: Final = 0.003
"""Between two looks whether the mount has completed a commit: it does not ring for that."""
_PUBLISHED_S: Final = 0.002
"""Between two looks for a publication: only replicas' readers wait for it, and the next commit proves it, too."""
_SHORT: Final = "TooFewReplicas"
_SMALL_BYTES: Final = 256 << 10


class HeldCommits:
    """What is in flight of one database."""

    def __init__(self, database: CapturedDatabase, wal: WalCapture) -> None:
        self._db = database
        self._wal = wal
        self._words = database.words
        self._quorum: QuorumView = database.node.quorum
        self._timeout_s = database.node.config.replication.ack_timeout_s
        self._seen = 0
        self._since = 0.0
        self._is_short = False
        self._short_seq = 0
        self._held_fd = -1
        self.flight: Flight | None = None

    # looking

    @property
    def is_asked(self) -> bool:
        """Whether the mount holds a commit of the log back that is not captured."""
        words = self._words
        seq = words[Word.HELD_SEQ]
        if words[Word.HELD_KIND] != HELD_WAL or seq == words[Word.HELD_OVER]:
            return False
        flight_seq = self.flight.seq if self.flight is not None else 0
        return bool(seq not in (flight_seq, words[Word.HELD_FAILED], words[Word.HELD_DONE]))

    @property
    def is_small(self) -> bool:
        """Whether what is to be captured is a few pages."""
        content = self._wal.content
        return content is not None and self._words[Word.HELD_AT] <= content.cursor.end + _SMALL_BYTES

    # what comes in

    def capture(self, now: float) -> float:
        """Capture what the mount holds back, if enough members are there; seconds until the next look."""
        seq = int(self._words[Word.HELD_SEQ])
        if not self._may_begin(seq, now):
            return _AGAIN_S
        content = self._wal.live()
        if content is None or content.generation != self._words[Word.HELD_GEN] or not self._take(content, seq):
            if now - self._since > self._timeout_s:
                self._give_up(seq)
            return _AGAIN_S
        return _WRITTEN_S

    def spooled(self, number: int, now: float) -> bool | None:
        """Whether a rollback-mode commit may be captured from spool ``number``; False: not yet, None: never."""
        words = self._words
        seq = int(words[Word.HELD_SEQ])
        if words[Word.HELD_AT] != number or seq in (words[Word.HELD_OVER], words[Word.HELD_FAILED]):
            return None  # its program waits no more: the same ranges come again when its journal ends
        if not self._may_begin(seq, now):
            return False
        self._db.holding = seq
        return True

    def spool_taken(self) -> None:
        """The commit of a spool is in the log now, if it changed anything."""
        db, seq = self._db, self._db.holding
        db.holding = 0
        if not seq:
            return
        if db.held is None:  # nothing changed
            self._words[Word.HELD_DONE] = seq
            db.node.bells.mount.ring()
            return
        self._begin_flight(seq)

    def wait(self, now: float) -> float:
        """Something else must be captured first; a commit that waits too long for it fails."""
        seq = int(self._words[Word.HELD_SEQ])
        self._notice(seq, now)
        if now - self._since > self._timeout_s:
            self._give_up(seq)
        return _AGAIN_S

    def _notice(self, seq: int, now: float) -> None:
        """The time of a commit runs from when it was seen first."""
        if seq != self._seen:
            self._seen, self._since = seq, now

    def _may_begin(self, seq: int, now: float) -> bool:
        """Whether enough members are connected; a commit that has waited too long for them fails."""
        self._notice(seq, now)
        if self._quorum.can_commit:
            return True
        self._say_short(now, self._since + self._timeout_s / 2)
        if now - self._since > self._timeout_s:
            self._give_up(seq)
        return False

    def _say_short(self, now: float, when: float) -> None:
        """Half of a commit's time is over: say so, once for each commit."""
        if now < when or self._short_seq == self._seen:
            return
        self._short_seq, self._is_short = self._seen, True
        text = "too few replicas acknowledge: commits wait, and then fail"
        self._db.node.problems.report(_SHORT, text, self._db.name)
        self._quorum.short()

    def _give_up(self, seq: int) -> None:
        """It was never captured: nothing is in doubt."""
        self._quorum.results["refused"] += 1
        self._refuse(seq)

    def _refuse(self, seq: int) -> None:
        self._words[Word.HELD_FAILED] = seq
        self._db.node.bells.mount.ring()

    def _take(self, content: WalContent, seq: int) -> bool:
        db, words = self._db, self._words
        at, length = int(words[Word.HELD_AT]), int(words[Word.HELD_LEN])
        held = self._held_bytes(length)
        if len(held) != length or words[Word.HELD_SEQ] != seq:
            return False
        end = frame_end(content.cursor, at + length)
        content.overlay = (at, held)
        db.holding = seq
        try:
            return self._publish(content, end, seq)
        finally:
            content.overlay = None
            db.holding = 0

    def _held_bytes(self, length: int) -> bytes:
        """What the mount keeps back; the same file for as long as the node lives."""
        if self._held_fd < 0:
            path = Path(runtime_dir(self._db.node.config)) / "held" / str(self._db.slot)
            try:
                self._held_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return b""
        return os.pread(self._held_fd, length, 0)

    def close(self) -> None:
        """Release the descriptor."""
        if self._held_fd >= 0:
            os.close(self._held_fd)
            self._held_fd = -1

    def _publish(self, content: WalContent, end: int, seq: int) -> bool:
        """Into the log and to the replicas; False when it cannot be captured as it is."""
        cursor, db = content.cursor, self._db
        if db.needs_whole(cursor.page_size):
            db.want_compare("a commit that waits does not begin the history")
            return False
        window: Window = content.read(end)
        group = take_group(cursor, window.found, window.data, db.store.commit)
        if group is not None and group.after.end == end:
            pages = db.with_holes(group.pages, group.commit, cursor.page_size)
            span = WalSpan(group.after, cursor.end, content.generation)
            db.publish(pages, cursor.page_size, group.commit, group.commits, span)
        elif group is not None or publish_large(db, content, end) is None:
            return False
        self._begin_flight(seq)
        return True

    def _begin_flight(self, seq: int) -> None:
        held, self._db.held = self._db.held, None
        assert held is not None
        header, span = held.header, held.span
        self.flight = Flight(
            seq=seq,
            txid=header.max_txid,
            pgnos=held.pgnos,
            commit_before=held.commit_before,
            commit=header.commit,
            deadline=self._since + self._timeout_s,
            span=span,
            salts=span.cursor.salts if span is not None else (0, 0),
        )
        self._quorum.make_durable(self._db.name)

    # what becomes of it

    def settle(self, now: float, since_event: float) -> float | None:
        """Look what became of the transaction in flight; None: nothing is in flight (any more)."""
        flight = self.flight
        if flight is None:
            return None
        if flight.span is None:
            return self._settle_spool(flight, now)
        words = self._words
        if words[Word.HELD_WRITTEN] < flight.seq:
            return self._settle_unwritten(flight, now)
        verdict = self._is_published(flight, flight.span, since_event)
        if verdict is None:
            return max(_PUBLISHED_S, tail_pause(since_event))
        if verdict:
            self._commit(flight)
        else:
            self._take_back(flight, "its program ended before it published it")
        return None

    def _settle_unwritten(self, flight: Flight, now: float) -> float | None:
        words = self._words
        if words[Word.HELD_OVER] >= flight.seq or words[Word.HELD_SEQ] != flight.seq:
            self._take_back(flight, "its program was told that it failed")
            return None
        if words[Word.HELD_DONE] == flight.seq:
            return _WRITTEN_S
        if now <= flight.deadline:
            self._say_short(now, flight.deadline - self._timeout_s / 2)
            return min(flight.deadline - now + _AGAIN_S, _WRITTEN_S)
        self._quorum.withdraw(self._db.name)
        if words[Word.HELD_DONE] == flight.seq:  # in the last moment
            return _WRITTEN_S
        self._take_back(flight, "it was not acknowledged in time")
        self._refuse(flight.seq)
        return None

    def _settle_spool(self, flight: Flight, now: float) -> float | None:
        words = self._words
        if words[Word.HELD_WRITTEN] >= flight.seq:
            self._commit(flight)
            return None
        if words[Word.SPOOL_SEQ] != words[Word.SPOOL_DONE] or words[Word.HELD_SEQ] != flight.seq:
            self._end_flight()  # the journal was played back, and that comes as the next transaction
            return None
        if words[Word.HELD_OVER] >= flight.seq or words[Word.HELD_DONE] == flight.seq:
            return NEVER  # until the journal ends
        if now <= flight.deadline and self._db.node.state.node[NodeWord.ROLE] != ROLE_FENCED:
            self._say_short(now, flight.deadline - self._timeout_s / 2)
            return min(flight.deadline - now + _AGAIN_S, _SPOOL_S)
        self._quorum.withdraw(self._db.name)
        if words[Word.HELD_DONE] != flight.seq:
            self._refuse(flight.seq)
        return NEVER

    def _is_published(self, flight: Flight, span: WalSpan, since_event: float) -> bool | None:
        """Whether programs can see it; None: that is not known yet."""
        words, end = self._words, span.cursor.end
        head = self._wal.index.read()
        salts = (head.salt1, head.salt2) if head is not None else None
        if head is not None and salts == flight.salts and span.cursor.end_of(head.max_frame) >= end:
            return True
        if words[Word.WAL_GEN] != span.generation or (salts is not None and follows(salts, flight.salts)):
            return are_in_database(self._db, flight.pgnos, flight.commit)
        if words[Word.WAL_END] < end:
            return False
        if words[Word.HELD_SEQ] != flight.seq and words[Word.HELD_KIND] == HELD_WAL:
            return bool(words[Word.HELD_AT] >= end)
        if since_event >= QUIET_S and self._wal.nobody_publishes():
            # Who opens the database next finds it in the log; unless a last close has just removed that.
            return True if words[Word.WAL_GEN] == span.generation else None
        return None

    def _commit(self, flight: Flight) -> None:
        db, span = self._db, flight.span
        if span is not None:
            at = span.cursor
            content = self._wal.content
            if content is not None and content.generation == span.generation:
                content.cursor = at
            db.store.set_wal_mark(at.header.salt1, at.header.salt2, at.end, span.generation)
            db.captured(span.generation, at.end, ring=not self.is_asked)
        self._end_flight()
        if self._is_short:
            self._is_short = False
            db.node.problems.clear(_SHORT, db.name)
        self._quorum.results["committed"] += 1
        db.show_position()
        self._quorum.commit(db.name, flight.txid)

    def _take_back(self, flight: Flight, why: str) -> None:
        """Follow it by what was there before."""
        db = self._db
        log.warning("%s: transaction %016x is taken back: %s", db.name, flight.txid, why)
        self._quorum.withdraw(db.name)
        self._quorum.results["taken_back"] += 1
        self.flight = None
        try:
            self._publish_old(flight)
        except (SQLiteClusterError, OSError) as error:
            db.want_compare(f"transaction {flight.txid:016x} could not be taken back: {error}")
        else:
            self._end_flight()
            self._quorum.commit(db.name, db.store.position.txid)
        span = flight.span
        if span is not None and self._words[Word.HELD_WRITTEN] >= flight.seq:
            db.captured(self._words[Word.WAL_GEN], self._words[Word.WAL_END])  # nothing of it waits for capture

    def _publish_old(self, flight: Flight) -> None:
        db, store = self._db, self._db.store
        size, skip = store.page_size, lock_page(store.page_size)
        wanted = {pgno for pgno in flight.pgnos if pgno <= flight.commit_before}
        wanted.update(range(flight.commit + 1, flight.commit_before + 1))
        wanted.discard(skip)
        if not flight.commit_before:
            db.publish([], size, 0, 1)
            return
        frames: dict[int, int] = {}
        content = self._wal.content
        wal_fd = -1
        if content is not None and flight.span is not None and content.generation == flight.span.generation:
            frames, _cursor, _commit = frames_of(content, flight.span.start)
            wal_fd = content.fd
        fd = os.open(db.directory / "database", os.O_RDONLY | os.O_CLOEXEC)
        try:
            image = Image(fd, Shape(size, flight.commit_before), wal_fd, frames)
            db.publish(image.pages(sorted(wanted)), size, flight.commit_before, 1)
        finally:
            os.close(fd)

    def _end_flight(self) -> None:
        self.flight = None
        self._db.store.set_in_flight(0)

    # beginning and end

    def finish(self) -> None:
        """Nobody can write any more: what programs can see counts, the rest stays in the log, in doubt.

        The next primary judges it: it is in its log, or it is not.
        """
        if self.is_asked:
            self._give_up(int(self._words[Word.HELD_SEQ]))
        flight = self.flight
        if flight is None:
            self.leave()  # the image was not compared in time
            return
        self._quorum.withdraw(self._db.name)
        written = self._words[Word.HELD_WRITTEN] >= flight.seq
        if written and (flight.span is None or self._is_published(flight, flight.span, QUIET_S)):
            self._commit(flight)
            return
        if written and flight.span is not None:
            if self._words[Word.WAL_GEN] == flight.span.generation:
                void(self._db, flight.span)
            self._take_back(flight, "its program ended before it published it")
            return
        self.flight = None
        if self._words[Word.HELD_DONE] != flight.seq:
            self._refuse(flight.seq)
        log.warning("%s: transaction %016x stays in doubt: the role ended", self._db.name, flight.txid)

    def resume(self) -> None:
        """An earlier process left a transaction in doubt: the image shows what became of it."""
        db = self._db
        store, words = db.store, self._words
        txid = store.in_flight
        if not txid:
            return
        log.warning("%s: transaction %016x is in doubt since an earlier process", db.name, txid)
        seq = int(words[Word.HELD_SEQ])
        if txid == store.position.txid and self._take_up(txid):
            return
        if seq != words[Word.HELD_OVER] and words[Word.HELD_DONE] != seq:
            self._refuse(seq)
        db.want_compare(f"transaction {txid:016x} was in doubt")

    def compared(self) -> None:
        """The image was compared with the history: what was in doubt is in both, or was followed by what is there.

        Not earlier may replicas show it: what a reader saw once must not go away.
        """
        db = self._db
        if self.flight is None and self._quorum.holds:
            db.store.set_in_flight(0)
            self._quorum.commit(db.name, db.store.position.txid)

    def leave(self) -> None:
        """[programs cannot write] As ``resume``, but what programs do not see stays in flight."""
        store = self._db.store
        txid = store.in_flight
        if txid and (txid != store.position.txid or self._is_visible(txid)):
            store.set_in_flight(0)

    def _is_visible(self, txid: int) -> bool:
        """Whether readers see a transaction: by the wal-index, or in the database file when there is no log."""
        data = self._stored(txid)
        if data is None:
            return True
        header = Header.parse(data[:HEADER_SIZE])
        head = self._wal.index.read() if header.wal_size else None
        if head is not None and (head.salt1, head.salt2) == (header.wal_salt1, header.wal_salt2):
            return head.max_frame * (header.page_size + FRAME_HEADER_SIZE) >= header.wal_offset + header.wal_size - 32
        pgnos = [pgno for pgno, _page in decode(data, verify=False).pages]
        return are_in_database(self._db, pgnos, header.commit)

    def _stored(self, txid: int) -> bytes | None:
        store = self._db.store
        piece = store.next_after(txid - 1)
        return store.read(piece) if piece is not None else None

    def _take_up(self, txid: int) -> bool:
        """Go on looking after a transaction that the WAL holds whole: is it published, or written over?

        So does one that was released, though the mount has not completed it yet: it will, and its
        program is told that it is safe, so it must not be followed by what was there before.
        """
        data, before, content = self._stored(txid), self._stored(txid - 1), self._wal.live()
        if data is None or before is None or content is None:
            return False
        file, earlier = decode(data, verify=False), Header.parse(before[:HEADER_SIZE])
        header = file.header
        end = header.wal_offset + header.wal_size
        if not header.wal_size or earlier.max_txid != txid - 1 or content.cursor.end != header.wal_offset:
            return False
        after = content.cursor
        content.overlay = released = self._released(content)
        for window in content.windows(end, after):
            after = window.after
        content.overlay = None
        if after.end != end or after.salts != (header.wal_salt1, header.wal_salt2):
            return False
        self.flight = Flight(
            seq=int(self._words[Word.HELD_WRITTEN if released is None else Word.HELD_SEQ]),
            txid=txid,
            pgnos=[pgno for pgno, _page in file.pages],
            commit_before=earlier.commit,
            commit=header.commit,
            deadline=0.0,
            span=WalSpan(after, header.wal_offset, content.generation),
            salts=after.salts,
        )
        return True

    def _released(self, content: WalContent) -> tuple[int, bytes] | None:
        """(offset, bytes) of a commit of the log that was released and that the mount has yet to complete."""
        words = self._words
        seq, length = words[Word.HELD_SEQ], int(words[Word.HELD_LEN])
        if words[Word.HELD_KIND] != HELD_WAL or words[Word.HELD_GEN] != content.generation:
            return None
        if words[Word.HELD_DONE] != seq or max(words[Word.HELD_OVER], words[Word.HELD_WRITTEN]) >= seq:
            return None
        held = self._held_bytes(length)
        return (int(words[Word.HELD_AT]), held) if len(held) == length else None
