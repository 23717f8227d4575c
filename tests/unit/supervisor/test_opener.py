"""The opener opens what the replicator's user may not, below the mount point only, and has one capability."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from sqlitecluster.errors import LockTimeout
from sqlitecluster.replicator import through
from sqlitecluster.supervisor import datagrams, opener, privileges
from sqlitecluster.supervisor.opener import Limits

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

UID = 20202


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A mount point of another user, closed to everybody else."""
    folder = tmp_path / "mnt"
    folder.mkdir()
    (folder / "a.db").write_bytes(b"content")
    (folder / "sub").mkdir()
    (folder / "sub/b.db").write_bytes(b"below")
    for path in [*folder.rglob("*"), folder]:
        os.chown(path, 1000, 1000)
        path.chmod(0o700 if path.is_dir() else 0o600)
    for above in tmp_path.parents:
        if above.stat().st_mode & stat.S_IXOTH == 0 and above != Path("/"):
            above.chmod(above.stat().st_mode | stat.S_IXOTH)  # pytest's own folders are closed
    tmp_path.chmod(0o755)
    return folder


@pytest.fixture
def asked(folder: Path) -> Iterator[through.Opener]:
    ours, theirs = datagrams.pair()
    pid = opener.start(theirs, Limits(str(folder), str(folder.parent / "data")), UID, UID)
    theirs.close()
    yield through.Opener(ours.detach(), folder)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
    os.waitpid(pid, 0)


def test_it_opens_reads_and_writes_what_its_user_may_not(asked: through.Opener, folder: Path) -> None:
    _, fd = asked.ask("open", folder / "a.db", flags=os.O_RDWR, mode=0)
    assert os.pread(fd, 100, 0) == b"content"
    os.pwrite(fd, b"CONTENT", 0)
    os.close(fd)
    assert (folder / "a.db").read_bytes() == b"CONTENT"


def test_it_finds_files_in_closed_folders(asked: through.Opener, folder: Path) -> None:
    answer, _ = asked.ask("stat", folder / "sub/b.db")
    assert os.stat_result(answer["stat"]).st_ino == (folder / "sub/b.db").stat().st_ino
    asked.ask("unlink", folder / "sub/b.db")
    asked.ask("mkdir", folder / "sub/new", mode=0o777)
    assert sorted(os.listdir(folder / "sub")) == ["new"]


def test_the_kernels_refusal_is_passed_on(asked: through.Opener, folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        asked.ask("open", folder / "missing", flags=os.O_RDONLY, mode=0)
    with pytest.raises(IsADirectoryError):
        asked.ask("unlink", folder / "sub")


@pytest.mark.parametrize("path", ["link", "linked/passwd", "sub/../../x"])
def test_links_and_ways_up_are_refused(asked: through.Opener, folder: Path, path: str) -> None:
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "linked").symlink_to("/etc")
    with pytest.raises(OSError):
        asked.ask("open", folder / path, flags=os.O_RDONLY, mode=0)


def test_it_has_one_capability_and_gets_no_other(folder: Path) -> None:
    ours, theirs = datagrams.pair()
    pid = opener.start(theirs, Limits(str(folder), str(folder.parent / "data")), UID, UID)
    answers = through.Opener(ours.detach(), folder)
    answers.ask("stat", folder / "a.db")  # it has become who it is
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
    )
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    theirs.close()
    one = f"{1 << privileges.CAP_DAC_OVERRIDE:016x}"
    assert (status["CapEff"], status["CapPrm"], status["CapBnd"], status["CapInh"]) == (one, one, one, "0" * 16)
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"].split() == [str(UID)] * 4
    assert status["Groups"].strip() == ""


def test_a_hot_journal_is_played_back(folder: Path, asked: through.Opener) -> None:
    database = folder / "hot.db"
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("CREATE TABLE t(x)")
    writer.execute("INSERT INTO t VALUES ('kept')")
    writer.execute("PRAGMA cache_size=1")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO t SELECT randomblob(3000) FROM (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1"
                   " FROM n WHERE i < 50) SELECT i FROM n)")  # fmt: skip
    copies = {name: (folder / name).read_bytes() for name in ("hot.db", "hot.db-journal")}
    writer.execute("ROLLBACK")
    writer.close()
    for name, content in copies.items():  # as a writer that was killed leaves it
        (folder / name).write_bytes(content)
        os.chown(folder / name, 1000, 1000)
        (folder / name).chmod(0o600)
    through.use(asked)
    try:
        through.roll_back(database, 5.0)
    finally:
        through.use(None)
    assert not (folder / "hot.db-journal").exists()
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [("kept",)]


def test_a_journal_that_cannot_be_played_back_is_said(folder: Path, asked: through.Opener) -> None:
    (folder / "a.db").write_bytes(b"no database at all" * 100)
    through.use(asked)
    try:
        with pytest.raises(LockTimeout):
            through.roll_back(folder / "a.db", 0.1)
    finally:
        through.use(None)


def test_without_an_opener_a_refusal_stays_a_refusal(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        through.open_fd(folder / "missing", os.O_RDONLY)
    assert through.read_start(folder / "a.db", 4) == b"cont"


def test_answers_to_a_dead_predecessor_are_skipped(folder: Path, asked: through.Opener) -> None:
    asked._sock.send(b'{"op": "open", "id": 1, "path": "a.db", "flags": 0, "mode": 0}')
    answer, _ = asked.ask("stat", folder / "a.db")
    assert "stat" in answer


def test_only_tokens_of_the_configured_folders_are_handed_out(folder: Path, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tokens / "token").write_text("secret")
    (tokens / "token").chmod(0o600)
    ours, theirs = datagrams.pair()
    pid = opener.start(theirs, Limits(str(folder), token_dirs=(str(tokens),)), UID, UID)
    asked = through.Opener(ours.detach(), folder)
    fd = asked.token(tokens / "token")
    assert os.read(fd, 100) == b"secret"
    with pytest.raises(OSError):
        os.write(fd, b"x")
    os.close(fd)
    for path in ("/etc/shadow", f"{tokens}/../tokens/token", f"{tokens}/sub/token"):
        with pytest.raises(PermissionError):
            asked.token(Path(path))
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    theirs.close()


def make(path: Path, value: str) -> Path:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t(x)")
        connection.execute("INSERT INTO t VALUES (?)", (value,))
        connection.commit()
    return path


def test_a_database_that_is_closed_to_its_user_is_replaced_by_an_import(folder: Path, asked: through.Opener) -> None:
    incoming = folder.parent / "data/incoming"
    incoming.mkdir(parents=True)
    os.chown(incoming, UID, UID)
    target = make(folder / "t.db", "old")
    os.chown(target, 1000, 1000)
    target.chmod(0o600)
    through.use(asked)
    try:
        result = through.run_import(make(incoming / "x", "new"), target, incoming / "work", 1.0, 60.0)
        with pytest.raises(PermissionError):
            through.run_import(folder / "a.db", target, incoming / "work", 1.0, 60.0)
        writer = sqlite3.connect(target, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        locked = through.run_import(incoming / "x", target, incoming / "work", 0.1, 60.0)
        writer.close()
    finally:
        through.use(None)
    assert result == (0, "")
    assert locked[0] == 75
    with contextlib.closing(sqlite3.connect(target)) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [("new",)]
