"""The WAL tracker when a transaction outgrew the page cache and SQLite goes back over its frames."""

from __future__ import annotations

from sqlitecluster.mount.waltrack import WalTracker

PAGE = 512
SALT = b"saltsalt"
HEADER = b"\x37\x7f\x06\x82" + (3007000).to_bytes(4, "big") + PAGE.to_bytes(4, "big") + bytes(4) + SALT + bytes(8)
FRAME = 24 + PAGE


class File:
    """A WAL as the mount sees it written."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.tracker = WalTracker(lambda at, length: bytes(self.data[at : at + length]))
        self.tracker.clear()
        self.write(0, HEADER)

    def write(self, at: int, data: bytes) -> None:
        if at < self.tracker.size and self.tracker.rewinds(at, data):
            self.tracker.rewind(at)
        self.data[at : at + len(data)] = data
        if at:
            self.tracker.feed(at, data)
        else:
            self.tracker.restart(data)

    def frame_header(self, number: int, commit: int, salt: bytes = SALT) -> None:
        header = number.to_bytes(4, "big") + commit.to_bytes(4, "big") + salt + bytes([number] * 8)
        self.write(32 + (number - 1) * FRAME, header)

    def frame(self, number: int, commit: int, salt: bytes = SALT) -> None:
        self.frame_header(number, commit, salt)
        self.write(32 + (number - 1) * FRAME + 24, bytes([number]) * PAGE)


def end_after(frames: int) -> int:
    return 32 + frames * FRAME


def spilled() -> File:
    """A commit of one frame, then a transaction that rewrote page 2 and appended frames without a salt."""
    file = File()
    file.frame(1, 1)
    file.frame(2, 0)
    file.write(32 + FRAME + 24, b"again" * 100 + bytes(12))
    for number in (3, 4):
        file.frame(number, 0, bytes(8))
    file.frame(5, 5, bytes(8))
    return file


def test_giving_frames_their_salt_is_no_rewind() -> None:
    file = spilled()
    for number in (2, 3, 4):
        file.frame_header(number, 0)
    file.frame_header(5, 5)
    assert (file.tracker.end, file.tracker.size) == (end_after(5), end_after(5))


def test_a_tracker_that_starts_in_between_sees_the_commit_at_the_last_header() -> None:
    file = spilled()
    file.tracker.load(len(file.data))
    for number in (2, 3, 4):
        file.frame_header(number, 0)
    file.frame_header(5, 5)
    assert file.tracker.end == end_after(5)


def test_another_transaction_in_the_same_place_is_a_rewind() -> None:
    file = spilled()
    file.frame(2, 2)
    assert (file.tracker.end, file.tracker.size) == (end_after(2), end_after(2))


def test_frames_of_an_older_generation_are_not_taken_for_new_ones() -> None:
    file = File()
    file.frame(1, 1)
    file.data += (9).to_bytes(4, "big") + (9).to_bytes(4, "big") + b"otherslt" + bytes(8 + PAGE)
    file.tracker.load(len(file.data))
    assert file.tracker.end == end_after(1)


def test_a_commit_that_looks_like_the_unpublished_one_in_its_place_is_a_rewind() -> None:
    """Same page, same size, other content: the old page under the new header must not be taken for a commit."""
    file = File()
    file.frame(1, 1)
    file.frame(2, 2)
    at = 32 + FRAME
    header = (2).to_bytes(4, "big") * 2 + SALT + b"othersum"
    file.write(at, header)
    assert file.tracker.end == end_after(1)
    assert file.tracker.completes(at, header) == 0
    page = b"x" * PAGE
    assert file.tracker.completes(at + 24, page) == end_after(2)
    file.write(at + 24, page)
    assert (file.tracker.end, file.tracker.size) == (end_after(2), end_after(2))
    file.write(at, header)
    assert file.tracker.end == end_after(2), "the same request again"
