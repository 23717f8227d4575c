"""The pure decisions of capture: what is proved, what makes a group, when to look again."""

from __future__ import annotations

import pytest

from sqlitecluster.errors import NotADatabase
from sqlitecluster.replicator import capture_pace as pace
from sqlitecluster.replicator.capture_group import Cursor, Group, take_group
from sqlitecluster.replicator.capture_image import shape_of
from sqlitecluster.replicator.capture_proof import Source, Users, choose_source, follows, proved_end
from sqlitecluster.replicator.capture_publish import is_whole
from sqlitecluster.sqlitefmt import wal
from sqlitecluster.units import lock_page

HEADER = wal.WALHeader(page_size=512, salt1=7, salt2=8)


def log_of(*transactions: tuple[list[int], int]) -> tuple[Cursor, wal.Scan, bytes]:
    """A WAL of transactions given as (pages, size afterwards); a page's bytes tell its transaction."""
    data, seed = b"", HEADER.seed
    for number, (pgnos, size) in enumerate(transactions):
        frames, seed = wal.build_frames([(pgno, bytes([number % 256]) * 512) for pgno in pgnos], size, HEADER, seed)
        data += bytes(frames)
    return Cursor.start(HEADER), wal.scan(data, HEADER), data


def group_of(*transactions: tuple[list[int], int], before: int = 0) -> Group:
    found = take_group(*log_of(*transactions), before)
    assert found is not None
    return found


def test_the_newest_version_of_a_page_counts() -> None:
    group = group_of(([1, 2], 2), ([2], 2), before=2)
    assert [(pgno, bytes(page[:1])) for pgno, page in group.pages] == [(1, b"\0"), (2, b"\1")]


def test_each_commit_frame_is_a_transaction() -> None:
    assert group_of(([1, 2], 2), ([2], 2), ([1], 2), before=2).commits == 3


def test_frames_behind_the_last_commit_are_left_for_later() -> None:
    cursor, _found, data = log_of(([1], 1), ([2], 0))
    group = take_group(cursor, wal.scan(data, HEADER), data, 1)
    assert group is not None
    assert group.after.end == cursor.end + cursor.frame_size


def test_without_a_commit_there_is_no_group() -> None:
    assert take_group(*log_of(([1, 2], 0)), 0) is None


def test_a_group_ends_where_the_database_shrinks() -> None:
    group = group_of(([1], 5), ([1], 3), ([1, 4], 4), before=5)
    assert (group.commits, group.commit) == (2, 3)


def test_pages_beyond_the_end_are_left_out() -> None:
    assert [pgno for pgno, _page in group_of(([1, 4, 5], 3), before=5).pages] == [1]


def test_padding_frames_are_no_transactions() -> None:
    data, seed = b"", HEADER.seed
    for _ in range(3):
        frames, seed = wal.build_frames([(1, b"x" * 512)], 1, HEADER, seed)
        data += bytes(frames)
    group = take_group(Cursor.start(HEADER), wal.scan(data, HEADER), data, 1)
    assert group is not None
    assert group.commits == 1


def test_a_group_is_bounded_by_its_distinct_pages() -> None:
    many = [(list(range(first, first + 700)), 5000) for first in range(1, 4900, 700)]
    assert group_of(*many, before=5000).commits == 2


def test_a_group_is_bounded_by_its_commits() -> None:
    assert group_of(*[([1 + i % 2], 2) for i in range(600)], before=2).commits == 512


def test_a_single_transaction_is_never_cut() -> None:
    assert len(group_of((list(range(1, 4001)), 4000)).pages) == 4000


@pytest.mark.parametrize(
    ("index", "users", "source"),
    [
        ((7, 8), Users.SHARED, Source.INDEX),
        ((8, 99), Users.SHARED, Source.RESTART),
        ((0, 0), Users.SHARED, Source.WAIT),
        (None, Users.SHARED, Source.WAIT),
        (None, Users.NONE, Source.SILENT),
        ((7, 8), Users.EXCLUSIVE, Source.SILENT),
        ((3, 4), Users.EXCLUSIVE, Source.SILENT),
        (None, Users.EXCLUSIVE, Source.SILENT),
    ],
)
def test_who_speaks_for_a_log(index: tuple[int, int] | None, users: Users, source: Source) -> None:
    assert choose_source(index, (7, 8), users) is source


@pytest.mark.parametrize(
    ("index", "source"), [((7, 8), Source.CLOSING), ((8, 99), Source.RESTART), ((0, 0), Source.WAIT)]
)
def test_an_exclusive_program_that_uses_the_index_is_no_other_than_a_shared_one(
    index: tuple[int, int], source: Source
) -> None:
    """``locking_mode=EXCLUSIVE`` set on an open connection, or a last close: neither says how long it takes."""
    assert choose_source(index, (7, 8), Users.EXCLUSIVE, index_used=True) is source


def test_a_removed_index_is_a_last_close() -> None:
    """SQLite removes the wal-index first, then the log, and holds EXCLUSIVE all the time."""
    assert choose_source(None, (7, 8), Users.EXCLUSIVE, index_removed=True) is Source.CLOSING
    assert choose_source((7, 8), (7, 8), Users.EXCLUSIVE, index_removed=True) is Source.CLOSING, "removed meanwhile"
    assert choose_source(None, (7, 8), Users.NONE, index_removed=True) is Source.SILENT, "it died in its close"


def test_salts_wrap_around() -> None:
    assert follows((0, 1), (0xFFFF_FFFF, 5))


@pytest.mark.parametrize(
    ("ends", "highest", "quiet", "proved"),
    [
        ([], 500, 1.0, 0),
        ([100], 100, 0.0, 0),
        ([100], 101, 0.0, 100),
        ([100, 200], 200, 0.0, 100),
        ([100, 200], 200, 0.06, 200),
    ],
)
def test_what_is_proved_without_an_index(ends: list[int], highest: int, quiet: float, proved: int) -> None:
    assert proved_end(ends, highest, quiet) == proved


def database_head(pages: int, counter: int = 1, valid_for: int = 1) -> bytes:
    head = bytearray(100)
    head[:16] = b"SQLite format 3\0"
    head[16:18] = (512).to_bytes(2, "big")
    head[24:28] = counter.to_bytes(4, "big")
    head[28:32] = pages.to_bytes(4, "big")
    head[92:96] = valid_for.to_bytes(4, "big")
    return bytes(head)


def test_the_headers_page_count_is_believed_when_its_counter_is_right() -> None:
    assert shape_of(database_head(3), 512 * 5).commit == 3


def test_an_old_page_count_gives_way_to_the_files_size() -> None:
    assert shape_of(database_head(3, counter=2), 512 * 5).commit == 5


def test_a_page_count_beyond_the_file_gives_way_to_its_size() -> None:
    assert shape_of(database_head(9), 512 * 5).commit == 5


def test_something_else_has_no_shape() -> None:
    with pytest.raises(NotADatabase):
        shape_of(b"\0" * 100, 512)


def test_a_whole_database_has_no_lock_page() -> None:
    lock = lock_page(65536)
    assert is_whole([pgno for pgno in range(1, lock + 2) if pgno != lock], lock + 1, 65536)


def test_publication_is_polled_without_pause_only_for_a_moment() -> None:
    assert pace.tail_pause(0.0) == 0.0
    assert 0 < pace.tail_pause(0.001) < pace.tail_pause(0.1) < pace.tail_pause(10.0)


def test_commits_gather_only_when_they_come_fast() -> None:
    assert pace.gather_pause(1, 8192) == 0.0
    assert pace.gather_pause(10, 8192) > 0.0


def test_a_quiet_node_sleeps_on_its_bell() -> None:
    assert pace.nap_or_sleep(5.0, pace.NEVER, is_fast=True) == (pace.HOUSEKEEPING_S, True)


def test_a_node_whose_commits_come_fast_naps_without_it() -> None:
    assert pace.nap_or_sleep(0.0005, pace.NEVER, is_fast=True) == (pace.NAP_S, False)
    assert pace.nap_or_sleep(0.0005, pace.NEVER, is_fast=False) == (pace.HOUSEKEEPING_S, True)


def test_how_fast_commits_come_is_seen_within_some_milliseconds() -> None:
    seen = pace.Pace()
    now = 100.0
    for _ in range(20):
        now += 1 / 300
        seen.note(1, now)
    assert not seen.is_fast
    for _ in range(120):
        now += 1 / 10_000
        seen.note(1, now)
    assert seen.is_fast
