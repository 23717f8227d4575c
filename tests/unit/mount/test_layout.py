"""Names below the mount."""

from __future__ import annotations

import errno
import os

import pytest

from sqlitecluster.mount import handles, roles
from sqlitecluster.mount.layout import Kind, Layout, place
from sqlitecluster.shared import ROLE_DISCONNECTED, ROLE_FENCED, ROLE_NONE, ROLE_PRIMARY, ROLE_REPLICA


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("app.db", Kind.DATABASE),
        ("a/b/app.db", Kind.DATABASE),
        ("there.db-wal", Kind.WAL),
        ("there.db-shm", Kind.SHM),
        ("there.db-journal", Kind.JOURNAL),
        ("there.db-pos", Kind.VIRTUAL),
        ("missing.db-wal", Kind.FILE),
        ("missing.db-pos", Kind.FILE),
        (".hidden", Kind.FILE),
        ("line\nbreak.db", Kind.FILE),
        ("app.db-mj00AB129CD", Kind.FILE),
        (".role", Kind.VIRTUAL),
        ("sub/.role", Kind.FILE),
        ("/".join("abcdefghi"), Kind.FILE),
    ],
)
def test_each_name_has_one_kind(path: str, kind: Kind) -> None:
    assert place(path, lambda name: name == "there.db").kind is kind


def test_side_files_lie_beside_their_database() -> None:
    layout = Layout("/data", "/run")
    assert layout.backing(Kind.WAL, "a/b.db") == "/data/dbs/a%2Fb.db/wal"
    assert layout.backing(Kind.SHM, "a/b.db") == "/run/shm/a%2Fb.db"
    assert layout.backing(Kind.FILE, "a/.x") == "/data/files/a/.x"


@pytest.mark.parametrize("role", [ROLE_NONE, ROLE_REPLICA, ROLE_FENCED, ROLE_DISCONNECTED])
def test_only_a_primary_changes_databases(role: int) -> None:
    for kind in (Kind.DATABASE, Kind.WAL, Kind.JOURNAL):
        assert roles.change(role, kind) == (errno.EIO if role == ROLE_FENCED else errno.EROFS)
        assert roles.change(ROLE_PRIMARY, kind) == roles.ALLOWED
    for kind in (Kind.FILE, Kind.DIRECTORY, Kind.SHM, Kind.VIRTUAL):
        assert roles.change(role, kind) == roles.ALLOWED


@pytest.mark.parametrize(
    ("role", "locked", "frozen", "now"),
    [
        (ROLE_PRIMARY, False, False, True),
        (ROLE_PRIMARY, False, True, False),
        (ROLE_REPLICA, False, False, False),
        (ROLE_REPLICA, True, False, True),
        (ROLE_REPLICA, True, True, False),
        (ROLE_NONE, True, False, False),
    ],
)
def test_an_open_waits_for_role_and_locks(role: int, locked: bool, frozen: bool, now: bool) -> None:
    assert roles.may_open_now(role, Kind.DATABASE, locked=locked, frozen=frozen) is now
    assert roles.may_open_now(role, Kind.WAL, locked=locked, frozen=frozen) is now


@pytest.mark.parametrize("role", [ROLE_PRIMARY, ROLE_REPLICA, ROLE_NONE])
def test_an_open_of_a_journal_waits_for_nothing_but_a_removal(role: int) -> None:
    assert roles.may_open_now(role, Kind.JOURNAL, locked=False, frozen=False, draining=True)
    assert not roles.may_open_now(role, Kind.JOURNAL, locked=False, frozen=True)


def test_read_only_replicas_refuse_writing_opens_of_databases_only() -> None:
    for kind, answer in ((Kind.DATABASE, errno.EACCES), (Kind.WAL, 0), (Kind.SHM, 0), (Kind.FILE, 0)):
        assert roles.opening(ROLE_REPLICA, kind, os.O_RDWR, read_only=True) == answer
        assert roles.opening(ROLE_REPLICA, kind, os.O_RDWR, read_only=False) == 0
        assert roles.opening(ROLE_PRIMARY, kind, os.O_RDWR, read_only=True) == 0


@pytest.mark.parametrize("ino", [1, (1 << 48) - 1, 5 | 1 << 62, 17 | 1 << 61])
def test_a_handle_says_everything_a_successor_needs(ino: int) -> None:
    number = handles.pack(ino, writing=True, privileged=True, generation=4095)
    assert handles.ino_of(number) == ino
    assert handles.is_writing(number)
    assert handles.is_privileged(number)
    assert handles.generation_of(number) == 4095
    assert handles.pack(ino) == ino
