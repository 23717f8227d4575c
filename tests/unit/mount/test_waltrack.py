"""The tracker finds every commit end from the writes alone."""

from __future__ import annotations

import random

import pytest

from sqlitecluster.mount.waltrack import Seen, WalTracker

PAGE = 512
FRAME = PAGE + 24
SALT = b"saltsalt"


class Log:
    """A log in memory with a tracker on it."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.tracker = WalTracker(lambda offset, size: bytes(self.bytes[offset : offset + size]))

    def write(self, offset: int, data: bytes) -> Seen:
        if 32 <= offset < self.tracker.size and self.tracker.rewinds(offset, data):
            self.tracker.rewind(offset)
        self.bytes[offset : offset + len(data)] = data
        if offset < 32:
            self.tracker.restart(bytes(self.bytes[:32]))
            return Seen.NOTHING
        return self.tracker.feed(offset, data)

    def start(self, salt: bytes = SALT) -> None:
        header = b"\x37\x7f\x06\x82" + (3_007_000).to_bytes(4, "big") + PAGE.to_bytes(4, "big") + bytes(4) + salt
        self.write(0, header + bytes(8))

    def frame(self, number: int, commit: int, *, page: int = 1, salt: bytes = SALT, chain: bytes = b"chainsum") -> Seen:
        at = 32 + number * FRAME
        self.write(at, page.to_bytes(4, "big") + commit.to_bytes(4, "big") + salt + chain)
        return self.write(at + 24, bytes([number % 251]) * PAGE)


def end(frames: int) -> int:
    return 32 + frames * FRAME


@pytest.fixture
def log() -> Log:
    made = Log()
    made.start()
    return made


def test_a_commit_is_seen_with_its_last_byte(log: Log) -> None:
    assert log.frame(0, 0) is Seen.FRAME
    assert log.tracker.end == 0
    assert log.frame(1, 2) is Seen.COMMIT
    assert (log.tracker.end, log.tracker.size) == (end(2), end(2))


@pytest.mark.parametrize("seed", range(20))
def test_writes_cut_anywhere_give_the_same_commits(seed: int) -> None:
    whole, cut, chance = Log(), Log(), random.Random(seed)
    whole.start()
    for number in range(12):
        whole.frame(number, commit=chance.choice((0, 0, 5)))
    cut.write(0, bytes(whole.bytes[:32]))
    at = 32
    while at < len(whole.bytes):
        size = chance.randint(1, 900)
        cut.write(at, bytes(whole.bytes[at : at + size]))
        at += size
    assert (cut.tracker.end, cut.tracker.size) == (whole.tracker.end, whole.tracker.size)


def test_a_rewritten_header_below_is_reported_again(log: Log) -> None:
    log.frame(0, 0)
    log.frame(1, 2)
    at = 32
    rewritten = bytes(log.bytes[at : at + 16]) + b"newchain"
    assert log.write(at, rewritten) is Seen.COMMIT
    assert log.tracker.end == end(2)


def test_a_rewritten_page_is_no_commit(log: Log) -> None:
    log.frame(0, 0)
    log.frame(1, 0)
    assert log.write(32 + 24, b"y" * PAGE) is Seen.NOTHING


def test_another_transaction_at_a_lower_frame_voids_what_was_above(log: Log) -> None:
    log.frame(0, 1)
    log.frame(1, 0)
    log.frame(2, 3)
    log.frame(1, 2, page=9)
    assert (log.tracker.end, log.tracker.size) == (end(2), end(2))


def test_a_new_header_begins_a_new_generation_over_old_frames(log: Log) -> None:
    for number in range(4):
        log.frame(number, 1)
    log.start(b"othersal")
    assert (log.tracker.end, log.tracker.size) == (0, 32)
    log.frame(0, 1, salt=b"othersal")
    assert log.tracker.end == end(1)


@pytest.mark.parametrize("commits", [[0, 1], [1, 0], [1, 1, 0, 0]])
def test_loading_a_file_finds_the_same_end(log: Log, commits: list[int]) -> None:
    for number, commit in enumerate(commits):
        log.frame(number, commit)
    other = WalTracker(lambda offset, size: bytes(log.bytes[offset : offset + size]))
    other.load(len(log.bytes))
    assert (other.end, other.size) == (log.tracker.end, log.tracker.size)


def test_loading_stops_at_frames_of_an_older_generation(log: Log) -> None:
    for number in range(3):
        log.frame(number, 1)
    log.start(b"othersal")
    log.frame(0, 1, salt=b"othersal")
    other = WalTracker(lambda offset, size: bytes(log.bytes[offset : offset + size]))
    other.load(len(log.bytes))
    assert (other.end, other.size) == (end(1), end(1))


def test_a_successor_goes_on_inside_a_frame(log: Log) -> None:
    log.frame(0, 1)
    log.write(end(1), (7).to_bytes(4, "big") + (2).to_bytes(4, "big") + SALT + b"chainsum")
    other = WalTracker(lambda offset, size: bytes(log.bytes[offset : offset + size]))
    other.resume(log.tracker.size, log.tracker.end)
    log.tracker = other
    assert log.write(end(1) + 24, b"x" * PAGE) is Seen.COMMIT
    assert other.end == end(2)


def test_frames_appended_by_somebody_else_are_found_with_the_next_write(log: Log) -> None:
    log.frame(0, 1)
    silent = log.tracker
    log.tracker = WalTracker(lambda offset, size: bytes(log.bytes[offset : offset + size]))
    log.tracker.load(len(log.bytes))
    log.frame(1, 2)
    log.tracker = silent
    log.frame(2, 3)
    assert silent.end == end(3)


def test_cutting_forgets_frames_above(log: Log) -> None:
    for number in range(3):
        log.frame(number, 1)
    log.tracker.cut(end(1))
    assert log.tracker.end == end(1)
    log.tracker.cut(0)
    assert (log.tracker.end, log.tracker.size) == (0, 0)


@pytest.mark.parametrize("junk", [b"", b"x", b"junk" * 20, b"\x37\x7f\x06\x82" + bytes(60)])
def test_a_file_that_is_no_log_has_no_commits(junk: bytes) -> None:
    tracker = WalTracker(lambda offset, size: junk[offset : offset + size])
    tracker.load(len(junk))
    tracker.feed(len(junk), b"more")
    assert tracker.end == 0


# -- what a write would complete, before it is made


def header_of(number: int, commit: int, salt: bytes = SALT) -> bytes:
    return number.to_bytes(4, "big") + commit.to_bytes(4, "big") + salt + b"chainsum"


def test_the_page_of_a_commit_frame_completes_it(log: Log) -> None:
    log.frame(0, 0)
    log.write(end(1), header_of(1, 2))
    assert log.tracker.completes(end(1) + 24, bytes(PAGE)) == end(2)


def test_a_header_or_a_frame_without_a_commit_completes_nothing(log: Log) -> None:
    assert not log.tracker.completes(end(0), header_of(1, 2))
    log.write(end(0), header_of(1, 0))
    assert not log.tracker.completes(end(0) + 24, bytes(PAGE))


def test_only_the_last_piece_of_a_page_completes(log: Log) -> None:
    log.write(end(0), header_of(1, 1))
    assert not log.tracker.completes(end(0) + 24, bytes(100))
    log.write(end(0) + 24, bytes(100))
    assert log.tracker.completes(end(0) + 124, bytes(PAGE - 100)) == end(1)


def test_a_whole_frame_in_one_write_completes(log: Log) -> None:
    assert log.tracker.completes(end(0), header_of(1, 1) + bytes(PAGE)) == end(1)


def test_a_commit_frame_without_a_salt_is_completed_by_its_header(log: Log) -> None:
    log.frame(0, 0)
    log.write(end(1), header_of(2, 2, bytes(8)))
    assert not log.tracker.completes(end(1) + 24, bytes(PAGE))
    log.write(end(1) + 24, bytes(PAGE))
    assert not log.tracker.completes(end(0), header_of(1, 0))
    assert log.tracker.completes(end(1), header_of(2, 2)) == end(2)
    log.write(end(1), header_of(2, 2))
    assert not log.tracker.completes(end(1), header_of(2, 2)), "it is there already"
