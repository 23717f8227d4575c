"""Whether a ``History`` keeps the promises; pure, each checker returns what is wrong in sentences.

The table ``log`` makes it linear: a version names the writes before it, so every read and
every write can be compared with the fold of exactly these; nothing has to be searched.

    log_is_known          the final log holds each write once, none that was refused, at its version
    nothing_lost          acknowledged writes are there (Quorum), or were the end of a lost epoch (Async)
    one_writer            nobody acknowledges once another one has, and holders change with epochs
    order_is_real_time    what ended before another began comes before it
    writes_see_the_fold   each write saw what the writes before it left (registers, balances, lists)
    reads_see_a_prefix    each read is the fold of a prefix; the total never changes; lists only grow
    reads_never_go_back   a node never shows an older state than before
    epochs_rise           the Lease's epoch never falls, and a holder never changes within one
    one_history           a position has one checksum in one epoch
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from support.history import FAIL, OK, History, Read, Write

SHOWN: Final = 5


@dataclass(slots=True)
class State:
    """What the tables hold."""

    balances: dict[str, int]
    registers: dict[str, int] = field(default_factory=dict)
    lists: dict[str, list[int]] = field(default_factory=dict)

    def seen_by(self, write: Write) -> dict[str, int]:
        """What a write should have read."""
        if write.kind == "bank":
            return {key: self.balances[key] for key in write.read}
        if write.kind == "append":
            return {key: len(self.lists.get(key, [])) for key in write.read}
        return {key: self.registers.get(key, 0) for key in write.read}

    def apply(self, write: Write) -> None:
        """Do what a write did."""
        if write.kind == "bank":
            self.balances.update(write.write)
        elif write.kind == "append":
            for key, item in write.write.items():
                self.lists.setdefault(key, []).append(item)
        else:
            self.registers.update(write.write)


def opening(history: History) -> State:
    """The tables before the first write."""
    return State({str(n): history.opening for n in range(history.accounts)})


def log_is_known(history: History) -> list[str]:
    """The final log holds each write once, none that was refused, each at its version."""
    wrong = []
    seen: set[str] = set()
    for version, op in enumerate(history.final, 1):
        write = history.writes.get(op)
        if op in seen:
            wrong.append(f"{op} is there twice")
        elif write is None:
            wrong.append(f"{op} is there, and no client did it")
        elif write.outcome == FAIL:
            wrong.append(f"{op} is there although it was refused")
        elif write.version != version:
            wrong.append(f"{op} is version {version} at the end, it was {write.version}")
        seen.add(op)
    return wrong


def nothing_lost(history: History) -> list[str]:
    """Quorum: every acknowledged write is there. Async: only the end of an epoch may be missing."""
    lost = history.lost()
    if history.mode == "Quorum":
        return [f"{w.op} (version {w.version}, {w.node}) was acknowledged and is lost" for w in lost]
    final = [history.writes[op] for op in history.final if op in history.writes]
    wrong = []
    for write in lost:
        after = final[write.version - 1 :]
        instead = after[0] if after else (final[-1] if final else None)
        if instead is None or (instead.node == write.node and not _was_away(history, write)):
            wrong.append(f"{write.op} (version {write.version}, {write.node}) is lost although {write.node} went on")
        kept = [w for w in after if w.node == write.node and w.outcome == OK and _before(w, instead)]
        if kept:
            wrong.append(f"{write.op} is lost, {kept[0].op} of the same epoch, which follows it, is not")
    return wrong


def _was_away(history: History, write: Write) -> bool:
    """Its node was dead or cut off at some time after the write: others may have been primary meanwhile."""
    return any(a.node == write.node and a.end >= (write.end or 0.0) for a in history.away)


def _before(write: Write, other: Write | None) -> bool:
    return other is not None and write.end is not None and write.end < other.begin


def one_writer(history: History) -> list[str]:
    """Nothing is acknowledged on a node once another one has acknowledged what took its place."""
    wrong = []
    final = [history.writes[op] for op in history.final if op in history.writes]
    lost = history.lost()
    for write in lost:
        fork = _fork(write, lost)
        others = [w.end for w in final[fork - 1 :] if w.node != write.node and w.end is not None and w.outcome == OK]
        first = min(others, default=None)
        if first is not None and write.end is not None and write.end > first and not _paused(history, write, first):
            late = write.end - first
            wrong.append(f"{write.op} was acknowledged by {write.node} {late:.3f} s after another node's first")
    return wrong + _switches(history)


def _fork(write: Write, lost: list[Write]) -> int:
    """The first version of the lost end that a write belongs to."""
    versions = {w.version for w in lost if w.node == write.node}
    fork = write.version
    while fork - 1 in versions:
        fork -= 1
    return fork


def _switches(history: History) -> list[str]:
    told = [w for w in history.acknowledged if not _paused(history, w, w.end or 0.0)]
    changes = sum(a.node != b.node for a, b in itertools.pairwise(told))
    epochs = [term.epoch for term in history.terms]
    if epochs and changes > max(epochs) - min(epochs):
        return [f"the acknowledging node changed {changes} times in epochs {min(epochs)} to {max(epochs)}"]
    return []


def _paused(history: History, write: Write, moment: float) -> bool:
    """It was under way when its node was stopped: its client was told so, or said so, only later."""
    return any(
        a.node == write.node and a.kind == "paused" and write.begin <= a.end and (write.end or moment) >= a.begin
        for a in history.away
    )


def order_is_real_time(history: History) -> list[str]:
    """A write that ended before another began has the lower version."""
    wrong = []
    newest: Write | None = None
    for op in history.final:
        write = history.writes.get(op)
        if write is None:
            continue
        if newest is not None and write.outcome == OK and write.end is not None and write.end < newest.begin:
            wrong.append(f"{newest.op} precedes {op}, but began {newest.begin - write.end:.3f} s after its end")
        if newest is None or write.begin > newest.begin:
            newest = write
    return wrong


def writes_see_the_fold(history: History) -> list[str]:
    """Each write read what the ones before it wrote: bank, lists and registers are linearizable."""
    wrong = []
    state = opening(history)
    for op in history.final:
        write = history.writes.get(op)
        if write is None:
            break
        seen = state.seen_by(write)
        if seen != write.read:
            wrong.append(f"{op} read {write.read}, the writes before it left {seen}")
        state.apply(write)
    return wrong


def reads_see_a_prefix(history: History) -> list[str]:
    """Each read shows exactly the writes up to its version."""
    wrong = []
    total = history.accounts * history.opening
    reads = sorted(history.reads, key=lambda r: r.version)
    state, at = opening(history), 0
    for read in reads:
        if read.total != total:
            wrong.append(f"{read.node} read a total of {read.total}, not {total}, at version {read.version}")
        if not is_of_history(history, read):
            wrong += _ghost(history, read)
            continue
        while at < read.version and history.final[at] in history.writes:
            state.apply(history.writes[history.final[at]])
            at += 1
        if at < read.version:
            break
        if read.registers != state.registers:
            wrong.append(f"{read.node}: registers {read.registers} at version {read.version}, not {state.registers}")
        items = state.lists.get(read.list, [])
        if read.items != items:
            text = f"{len(read.items)} items {read.items[-3:]}, not {len(items)} {items[-3:]}"
            wrong.append(f"{read.node}: list {read.list} at version {read.version}: {text}")
    return wrong


def is_of_history(history: History, read: Read) -> bool:
    """Whether what a read saw is part of what is there at the end."""
    if read.version == 0:
        return True
    return read.version <= len(history.final) and history.final[read.version - 1] == read.op


def _ghost(history: History, read: Read) -> list[str]:
    """A read of a write that is gone: possible only where acknowledged writes may be lost."""
    write = history.writes.get(read.op)
    if write is None or write.outcome == FAIL:
        return [f"{read.node} showed {read.op}, which no client did or which was refused"]
    if write.version != read.version:
        return [f"{read.node} showed {read.op} as version {read.version}, it was {write.version}"]
    if history.mode == "Quorum":
        return [f"{read.node} showed {read.op} (version {read.version}, {write.outcome}), which is gone at the end"]
    return []


def reads_never_go_back(history: History) -> list[str]:
    """What a node showed of the final history it shows from then on."""
    wrong = []
    newest: dict[str, Read] = {}
    for read in sorted(history.reads, key=lambda r: r.begin):
        if not is_of_history(history, read):
            continue
        before = newest.get(read.node)
        if before is not None and before.end < read.begin and read.version < before.version:
            wrong.append(f"{read.node} showed version {read.version} after {before.version}")
        if before is None or (read.version, -read.end) > (before.version, -before.end):
            newest[read.node] = read
    return wrong


def epochs_rise(history: History) -> list[str]:
    """The Lease's epoch never falls, and each epoch has one holder."""
    wrong = []
    holders: dict[int, str] = {}
    newest = 0
    for term in history.terms:
        if term.epoch < newest:
            wrong.append(f"the Lease went from epoch {newest} back to {term.epoch}")
        newest = max(newest, term.epoch)
        if term.holder and holders.setdefault(term.epoch, term.holder) != term.holder:
            wrong.append(f"epoch {term.epoch} had two holders: {holders[term.epoch]} and {term.holder}")
    return wrong


def one_history(history: History) -> list[str]:
    """In one epoch a TXID has one checksum, whichever node says it."""
    wrong = []
    known: dict[tuple[int, str], tuple[str, str]] = {}
    for found in history.applied:
        checksum, node = known.setdefault((found.epoch, found.txid), (found.checksum, found.node))
        if checksum != found.checksum:
            what = f"{checksum} on {node}, {found.checksum} on {found.node}"
            wrong.append(f"transaction {found.txid} of epoch {found.epoch} has two checksums: {what}")
    return wrong


def nothing_bad(history: History) -> list[str]:
    """No client saw an error that no fault excuses."""
    return list(history.bad)


CHECKERS: Final[dict[str, Callable[[History], list[str]]]] = {
    check.__name__: check
    for check in (
        *(log_is_known, nothing_lost, one_writer, order_is_real_time, writes_see_the_fold),
        *(reads_see_a_prefix, reads_never_go_back, epochs_rise, one_history, nothing_bad),
    )
}


def check(history: History) -> list[str]:
    """All checkers; of each the first findings."""
    found = []
    for name, checker in CHECKERS.items():
        wrong = checker(history)
        found += [f"{name}: {text}" for text in wrong[:SHOWN]]
        if len(wrong) > SHOWN:
            found.append(f"{name}: {len(wrong) - SHOWN} more")
    return found


def longest_silence(history: History, begin: float, end: float) -> float:
    """The longest time without an acknowledgement between two moments."""
    times = [begin, *(w.end for w in history.acknowledged if w.end is not None and begin < w.end < end), end]
    return max(b - a for a, b in itertools.pairwise(times))
