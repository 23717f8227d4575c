"""A killed mount process is replaced and programs notice nothing but a pause."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from sqlitecluster.shared import NodeWord, Word
from sqlitecluster.store.spool import read_spool
from support.mounting import MountedNode
from support.program import Program

Make = Callable[..., MountedNode]
pytestmark = pytest.mark.skipif(
    tuple(map(int, os.uname().release.split(".")[:2])) < (6, 9), reason="the kernel cannot resend requests"
)

_WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
db.execute("PRAGMA journal_mode=" + sys.argv[2])
db.execute("PRAGMA wal_autocheckpoint=20")
db.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body BLOB)")
for number in range(int(sys.argv[3])):
    db.execute("INSERT INTO t (body) VALUES (zeroblob(300))")
    print(number, flush=True)
"""


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
def test_a_writer_survives_kills_without_an_error(mounted: Make, mode: str) -> None:
    node = mounted()
    command = [sys.executable, "-c", _WRITER, str(node.mnt / "a.db"), mode, "150"]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    for line in writer.stdout:
        if int(line) % 50 == 25:
            node.kill()
            node.serve()
    assert writer.wait(60) == 0
    db = sqlite3.connect(node.mnt / "a.db")
    assert db.execute("SELECT count(*) FROM t").fetchone() == (150,)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


_EVALUATOR = """
import os, sys
known = {"os": os}
for line in sys.stdin:
    exec(line, known)
    print(known.pop("answer", None), flush=True)
"""


@pytest.fixture
def python() -> Iterator[Callable[[str], str]]:
    """Runs lines of Python in another process: files of the mount must not be open in this one."""
    child = subprocess.Popen([sys.executable, "-c", _EVALUATOR], stdin=-1, stdout=-1, text=True)
    assert child.stdin is not None and child.stdout is not None
    stdin, stdout = child.stdin, child.stdout

    def run(line: str) -> str:
        stdin.write(line + "\n")
        stdin.flush()
        return stdout.readline().strip()

    yield run
    stdin.close()
    child.wait(60)
    stdout.close()


def test_pages_written_before_a_kill_are_in_the_spool_after_it(mounted: Make) -> None:
    node = mounted(capture=False)
    db = Program(node.mnt / "a.db")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)")
    db.execute("PRAGMA cache_size=5")
    done = int(node.words("a.db")[Word.SPOOL_SEQ])
    db.execute("BEGIN")
    for _ in range(200):
        db.execute("INSERT INTO t (body) VALUES (zeroblob(2000))")  # more than the cache: written before the commit
    node.kill()
    node.serve()
    db.execute("COMMIT")
    db.close()
    spool = read_spool(node.spool(0, done + 1))
    image = bytearray((node.data / "dbs/a.db/database").read_bytes())
    assert sum(length for _offset, length in spool.ranges) == len(image)


@pytest.mark.parametrize(
    "failpoint",
    ["mount.before-spool", "mount.after-spool", "mount.after-announce", "mount.before-keep", "mount.after-keep"],
)
def test_a_kill_inside_a_commit_loses_no_page(
    mounted: Make, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, failpoint: str
) -> None:
    folder = tmp_path_factory.mktemp("failpoints")
    monkeypatch.setenv("SQLITECLUSTER_FAILPOINTS", str(folder))
    node = mounted(capture=False)
    subprocess.run([sys.executable, "-c", _WRITER, str(node.mnt / "a.db"), "delete", "1"], check=True)
    (folder / failpoint).touch()
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(node.mnt / "a.db"), "delete", "1"])
    node.wait_dead()
    node.serve()
    assert writer.wait(60) == 0
    image = bytearray()
    for seq in range(1, int(node.words("a.db")[Word.SPOOL_SEQ]) + 1):
        for offset, data in read_spool(node.spool(0, seq)).read():
            image[offset : offset + len(data)] = data
    assert bytes(image) == (node.data / "dbs/a.db/database").read_bytes()


_UPDATER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
db.execute("PRAGMA synchronous=FULL")
db.execute("UPDATE t SET round = ? WHERE id < ?", sys.argv[2:])
"""


def test_a_reused_journal_rolls_back_its_own_transaction_and_nothing_older(
    mounted: Make, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, copies = tmp_path_factory.mktemp("failpoints"), tmp_path_factory.mktemp("copies")
    monkeypatch.setenv("SQLITECLUSTER_FAILPOINTS", str(folder))
    node = mounted(capture=False)
    backing = node.data / "dbs/a.db"
    db = Program(node.mnt / "a.db")
    db.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, round INTEGER, body BLOB)")
    db.execute(
        "WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)"
        " INSERT INTO t SELECT i, 0, zeroblob(3000) FROM n"
    )
    db.execute("UPDATE t SET round = 1")
    db.close()
    inode = (backing / "journal").stat().st_ino
    (folder / "mount.before-spool").touch()
    writer = subprocess.Popen([sys.executable, "-c", _UPDATER, str(node.mnt / "a.db"), "2", "20"])
    node.wait_dead()
    shutil.copy(backing / "database", copies / "a.db")
    shutil.copy(backing / "journal", copies / "a.db-journal")
    assert (backing / "journal").stat().st_ino == inode and (backing / "journal").stat().st_size > 100 * 4096
    copy = sqlite3.connect(copies / "a.db")
    assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert copy.execute("SELECT max(round) FROM t").fetchone() == (1,)
    copy.close()
    node.serve()
    assert writer.wait(60) == 0


def test_a_successor_uses_the_kept_journal_and_shows_it_to_nobody(mounted: Make) -> None:
    node = mounted()
    write = [sys.executable, "-c", _WRITER, str(node.mnt / "a.db"), "delete", "3"]
    subprocess.run(write, check=True)
    kept = (node.data / "dbs/a.db/journal").stat().st_ino
    node.kill()
    node.serve()
    assert os.listdir(node.mnt) == ["a.db"]
    subprocess.run(write, check=True)
    assert (node.data / "dbs/a.db/journal").stat().st_ino == kept


def test_an_unlinked_open_file_is_still_there_for_its_user(mounted: Make, python: Callable[[str], str]) -> None:
    node = mounted()
    path = repr(str(node.mnt / ".plain"))
    python(f"fd = os.open({path}, os.O_RDWR | os.O_CREAT); os.write(fd, b'content')")
    node.kill()
    node.serve()
    python(f"os.unlink({path})")
    node.kill()
    node.serve()
    python("os.fsync(fd)")
    assert python("answer = os.pread(fd, 100, 0)") == "b'content'"
    python("os.close(fd)")
    node.wait_for(lambda: not os.listdir(node.data / "orphans"))


def test_files_in_directories_are_found_by_their_number(mounted: Make, python: Callable[[str], str]) -> None:
    node = mounted()
    (node.mnt / "a" / "b").mkdir(parents=True)
    (node.mnt / "a" / "b" / ".file").write_bytes(b"content")
    python(f"fd = os.open({str(node.mnt / 'a' / 'b')!r}, os.O_RDONLY)")
    node.kill()
    node.serve()
    assert python("answer = os.listdir(fd)") == "['.file']"
    assert (node.mnt / "a" / "b" / ".file").read_bytes() == b"content"


def test_a_stopped_process_leaves_the_rest_to_its_successor(mounted: Make) -> None:
    node = mounted(capture=False)
    db = Program(node.mnt / "a.db")
    for sql in (
        "PRAGMA journal_mode=WAL",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)",
        "PRAGMA wal_checkpoint(FULL)",
    ):
        db.execute(sql)
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(node.mnt / "a.db"), "wal", "1"])
    node.wait_for(lambda: node.state.node[NodeWord.PARKED] == 1)
    node.kill(signal.SIGTERM)
    node.serve()
    node.capture_now()
    node.wait_for(lambda: node.ring() or writer.poll() == 0)
    assert db.execute("SELECT count(*) FROM t") == [[1]]
    db.close()


def test_the_process_ends_when_its_supervisor_is_gone(mounted: Make) -> None:
    node = mounted()
    node.cut_lifeline()
    node.wait_dead()


def test_a_log_that_is_deleted_under_a_successor_stays_until_it_is_captured(mounted: Make) -> None:
    """The successor does not count the handles of its predecessor: the kernel's FORGET comes right after the unlink."""
    node = mounted(capture=False)
    program = Program(node.mnt / "a.db")
    program.execute("PRAGMA journal_mode=WAL")
    program.execute("CREATE TABLE t (x)")
    node.kill()
    node.serve()
    program.execute("INSERT INTO t VALUES (1)")
    program.close()
    folder = node.data / "dbs" / "a.db"
    assert [path for path in folder.glob("wal.*.gone") if path.stat().st_size]
    for _ in range(20):  # the kernel has said everything about the old inode by then
        os.stat(node.mnt / "a.db")
        (node.mnt / ".other").touch()
        (node.mnt / ".other").unlink()
    assert [path for path in folder.glob("wal.*.gone") if path.stat().st_size]
