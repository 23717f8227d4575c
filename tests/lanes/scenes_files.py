"""Scenes: the directory as programs see it, and databases that come, move and go."""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path

from support import images, processes
from support.clients import connect, error_of, fill, follows, run_sql, value
from support.lane import Run, registry
from support.node import Node
from support.processes import wait_until

CASES, case = registry()


def gone(node: Node, name: str, limit_s: float = 60) -> None:
    """Wait until a database is no longer there for programs."""
    assert wait_until(lambda: name not in os.listdir(node.mount), limit_s=limit_s), f"{name} is still on {node.name}"


@case
def hidden_files_tell_the_state(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "hidden.db", 1)
    cluster.wait_synced("hidden.db")
    one, two = cluster.primary.mount, cluster.replica.mount
    assert (two / ".primary").read_text() == "n1\n"
    assert not (one / ".primary").exists(), "the primary shows .primary"
    assert ((one / ".role").read_text(), (two / ".role").read_text()) == ("primary\n", "replica\n")
    lag = (two / ".lag").read_text()
    assert len(lag) == 11 and lag[0] in "+-" and lag.endswith("\n"), repr(lag)
    texts = [(mount / "hidden.db-pos").read_text() for mount in (one, two)]
    assert texts[0] == texts[1] and len(texts[0]) == 34, texts
    for mount in (one, two):
        shown = set(os.listdir(mount))
        assert not shown & {".primary", ".role", ".lag", "hidden.db-pos"}, shown
    (two / ".primary").unlink()
    assert (two / ".primary").read_text() == "n1\n", "unlinking a hidden file had an effect"


@case
def drop_and_create_again(run: Run) -> None:
    cluster = run.shared()
    path = cluster.primary.mount / "drop.db"
    fill(path, 5)
    follows(cluster.replica, "drop.db", "SELECT count(*) FROM t", 5)
    before = cluster.primary.position("drop.db")
    path.unlink()
    gone(cluster.replica, "drop.db")
    assert not path.exists()
    fill(path, 7)
    follows(cluster.replica, "drop.db", "SELECT count(*) FROM t", 7)
    after = cluster.primary.position("drop.db")
    assert before and after and int(after[0], 16) > int(before[0], 16), f"positions do not go on: {before} {after}"
    images.check_same(cluster, "drop.db")


@case
def a_dropped_database_is_kept_in_the_trash(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "trash.db", 5)
    cluster.wait_synced("trash.db")
    run_sql(cluster.primary.mount / "trash.db", "PRAGMA wal_checkpoint(TRUNCATE)")
    (cluster.primary.mount / "trash.db").unlink()
    kept = [p for p in (cluster.primary.data / "trash").rglob("database") if "trash.db" in str(p)]
    assert len(kept) == 1, kept
    copy = run.new_folder("trash") / "restored.db"
    shutil.copyfile(kept[0], copy)
    assert value(copy, "SELECT count(*) FROM t") == 5


@case
def a_file_that_was_no_database_is_gone_when_it_is_removed(run: Run) -> None:
    with run.cluster("plain", deletePolicy="Refuse") as cluster:
        path = cluster.primary.mount / "plain.bin"
        for keep in (b"not a database" * 1000, b""):
            path.write_bytes(keep)
            with open(path, "rb") as file:
                path.unlink()
                assert not path.exists() and file.read() == keep, "an open file lost its bytes"
        path.write_bytes(keep)
        path.unlink()
        fill(path, 3)
        follows(cluster.replica, "plain.bin", "SELECT count(*) FROM t", 3)
        assert error_of(path.unlink), "a database was deleted"
        for folder in ("trash", "orphans"):
            left = list((cluster.primary.data / folder).rglob("*"))
            assert not left, f"kept: {left}"
        images.check_same(cluster, "plain.bin")


@case
def delete_policy_refuse(run: Run) -> None:
    with run.cluster("refuse", deletePolicy="Refuse") as cluster:
        fill(cluster.primary.mount / "keep.db", 5)
        error_of((cluster.primary.mount / "keep.db").unlink)
        assert value(cluster.primary.mount / "keep.db", "SELECT count(*) FROM t") == 5
        images.check_same(cluster, "keep.db")


@case
def rename_follows(run: Run) -> None:
    cluster = run.shared()
    fill(cluster.primary.mount / "old-name.db", 6)
    follows(cluster.replica, "old-name.db", "SELECT count(*) FROM t", 6)
    run_sql(cluster.primary.mount / "old-name.db", "PRAGMA wal_checkpoint(TRUNCATE)")
    (cluster.primary.mount / "old-name.db").rename(cluster.primary.mount / "new-name.db")
    follows(cluster.replica, "new-name.db", "SELECT count(*) FROM t", 6)
    gone(cluster.replica, "old-name.db")
    fill(cluster.primary.mount / "new-name.db", 1)
    follows(cluster.replica, "new-name.db", "SELECT count(*) FROM t", 7)
    images.check_same(cluster, "new-name.db")


@case
def a_database_renamed_while_it_is_open_is_written_under_its_new_name(run: Run) -> None:
    cluster = run.shared()
    old, new = cluster.primary.mount / "open-old.db", cluster.primary.mount / "open-new.db"
    with connect(old, journal="DELETE") as db:
        db.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, v)")
        db.execute("INSERT INTO t(v) VALUES('first')")
        old.rename(new)
        fill(old, 5)
        db.execute("PRAGMA journal_mode=OFF")  # in other modes SQLite itself refuses: the file has moved
        for number in range(50):
            db.execute("INSERT INTO t(v) VALUES(?)", (f"{number}" * 500,))
        assert value(old, "SELECT count(*) FROM t") == 5
    for name, rows in (("open-new.db", 51), ("open-old.db", 5)):
        follows(cluster.replica, name, "SELECT count(*) FROM t", rows)
        images.check_same(cluster, name)


@case
def replace_by_rename(run: Run) -> None:
    """What editors and restore tools do: write aside, then rename over the old one."""
    cluster = run.shared()
    mount = cluster.primary.mount
    fill(mount / "target.db", 6, journal="DELETE")
    follows(cluster.replica, "target.db", "SELECT count(*) FROM t", 6)
    fill(mount / "aside.db", 9, journal="DELETE")
    (mount / "aside.db").replace(mount / "target.db")
    follows(cluster.replica, "target.db", "SELECT count(*) FROM t", 9)
    images.check_same(cluster, "target.db")


@case
def subdirectories(run: Run) -> None:
    cluster = run.shared()
    folder = cluster.primary.mount / "app" / "tenants"
    folder.mkdir(parents=True)
    for i in range(3):
        fill(folder / f"{i}.db", i + 1)
        follows(cluster.replica, f"app/tenants/{i}.db", "SELECT count(*) FROM t", i + 1)
    assert {"0.db", "1.db", "2.db"} <= set(os.listdir(cluster.replica.mount / "app" / "tenants"))
    images.check_same(cluster, "app/tenants/2.db")
    (folder / "0.db").unlink()
    assert wait_until(lambda: "0.db" not in os.listdir(cluster.replica.mount / "app" / "tenants"), limit_s=60)
    error_of(folder.rmdir)


@case
def a_directory_never_takes_a_side_files_name(run: Run) -> None:
    cluster = run.shared()
    mount = cluster.primary.mount
    for suffix in ("-journal", "-wal", "-shm"):
        side = mount / f"sides.db{suffix}"
        side.mkdir()
        assert "unable to open" in error_of(lambda: fill(mount / "sides.db", 1)), suffix
        fill(mount / "moved.db", 1)
        assert "irectory" in error_of(lambda: (mount / "moved.db").rename(mount / "sides.db")), suffix
        assert value(mount / "moved.db", "SELECT count(*) FROM t") == 1, "a rename that failed changed something"
        assert side.is_dir(), f"{side} went away"
        side.rename(mount / "elsewhere")
        fill(mount / "sides.db", 1)
        with connect(mount / "sides.db"):
            assert "xists" in error_of(side.mkdir), suffix
            assert "xists" in error_of(functools.partial((mount / "elsewhere").rename, side)), suffix
        assert sorted(os.listdir(mount / "elsewhere")) == []
        (mount / "elsewhere").rmdir()
        follows(cluster.replica, "sides.db", "SELECT count(*) FROM t", 1)
        for name in ("sides.db", "moved.db"):
            (mount / name).unlink()
            gone(cluster.replica, name)


@case
def a_new_directory_is_not_one_that_was_removed(run: Run) -> None:
    cluster = run.shared()
    node = cluster.primary
    orphans = node.data / "orphans"
    for index in range(30):
        removed, new = node.mount / f"removed-{index}", node.mount / f"new-{index}"
        removed.mkdir()
        inside = os.open(removed, os.O_RDONLY | os.O_DIRECTORY)
        try:
            removed.rmdir()
            new.mkdir()
            (new / "file").write_text("here")
            assert os.listdir(new) == ["file"]
            assert os.stat(new).st_ino != os.fstat(inside).st_ino
            assert os.fstat(inside).st_nlink == 0
            assert "No such file" in error_of(functools.partial(os.open, "file", os.O_CREAT | os.O_RDWR, dir_fd=inside))
            if index == 0:
                node.kill("mount")
                node.wait_ready()
                assert (new / "file").read_text() == "here"
        finally:
            os.close(inside)
    fill(node.mount / "new-0" / "inside.db", 1)
    follows(cluster.replica, "new-0/inside.db", "SELECT count(*) FROM t", 1)
    assert wait_until(lambda: not os.listdir(orphans), limit_s=30), f"left behind: {os.listdir(orphans)}"


@case
def other_files_stay_on_their_node(run: Run) -> None:
    cluster = run.shared()
    one, two = cluster.primary, cluster.replica
    (one.mount / "notes.txt").write_text("local\n")
    for name in ("my notes.txt", ".notes.txt"):
        (two.mount / name).write_text("also local\n")
        with open(two.mount / name, "a") as file:
            file.write("more\n")
        (two.mount / name).rename(two.mount / f"{name}2")
        assert (two.mount / f"{name}2").read_text() == "also local\nmore\n"
        assert not (one.mount / f"{name}2").exists()
    fill(one.mount / "beside.db", 1)
    cluster.wait_synced("beside.db")
    assert (one.mount / "notes.txt").read_text() == "local\n"
    assert not (two.mount / "notes.txt").exists()
    assert "notes.txt" in str(one.info()) and "my notes.txt2" in str(two.info()), "status does not report local files"
    assert "local" in one.get("/metrics").decode(), "no metric counts local files"
    for name in ("my notes.txt2", ".notes.txt2"):
        (two.mount / name).unlink()


@case
def a_local_file_becomes_a_database_on_the_primary_only(run: Run) -> None:
    cluster = run.shared()
    one, two = cluster.primary.mount, cluster.replica.mount
    source = run.new_folder("becomes") / "source.db"
    fill(source, 3, journal="DELETE")
    content = source.read_bytes()
    shutil.copyfile(source, one / "copied.db")
    (one / "touched.db").touch()
    fill(one / "touched.db", 3)
    with tempfile.NamedTemporaryFile(dir=one, suffix=".db", delete=False) as file:
        pass
    fill(Path(file.name), 3)
    with open(one / "tail-first.db", "wb") as out:
        out.seek(8)
        out.write(content[8:])
        out.seek(0)
        out.write(content[:8])
    for name in ("copied.db", "touched.db", Path(file.name).name, "tail-first.db"):
        follows(cluster.replica, name, "SELECT count(*) FROM t", 3)
        images.check_same(cluster, name)
    message = error_of(lambda: shutil.copyfile(source, two / "smuggled.db"))
    assert "Read-only file system" in message, message
    assert (two / "smuggled.db").read_bytes() == b"", "a replica holds what is not replicated"
    error_of(lambda: run_sql(two / "smuggled.db", "CREATE TABLE t(x)"))
    fill(one / "smuggled.db", 4)
    follows(cluster.replica, "smuggled.db", "SELECT count(*) FROM t", 4)
    images.check_same(cluster, "smuggled.db")


@case
def a_local_file_in_the_way_of_a_database(run: Run) -> None:
    cluster = run.shared()
    one, two = cluster.primary.mount, cluster.replica.mount
    (two / "later.db").write_bytes(b"not a database")
    fill(one / "later.db", 3)

    def reported() -> list[str]:
        return [row["code"] for row in cluster.replica.info()["problems"] if row.get("db") == "later.db"]

    assert wait_until(lambda: reported() == ["NotADatabase"], limit_s=30), reported()
    assert (two / "later.db").read_bytes() == b"not a database", "a file was wiped"
    (two / "later.db").unlink()
    follows(cluster.replica, "later.db", "SELECT count(*) FROM t", 3)
    assert not reported()
    images.check_same(cluster, "later.db")


@case
def many_local_files_are_no_burden(run: Run) -> None:
    with run.cluster("many-files") as cluster:
        counts = {cluster.primary: 9000, cluster.replica: 500}
        for node, count in counts.items():
            (node.mount / "upload").mkdir()
            for number in range(count):
                (node.mount / "upload" / f"{number}.jpg").write_bytes(b"\xff\xd8")
        fill(cluster.primary.mount / "beside.db", 1)
        cluster.wait_synced("beside.db")
        for node, count in counts.items():
            assert node.info()["localOnlyFiles"]["count"] == count, node.info()["localOnlyFiles"]["count"]
            assert len(os.listdir(node.mount / "upload")) == count
            assert (node.mount / "upload" / f"{count - 1}.jpg").read_bytes() == b"\xff\xd8"
        images.check_same(cluster, "beside.db")


@case
def names_as_programs_choose_them(run: Run) -> None:
    names = (
        "Plug-in Support/my library.db",
        "me+you@example.org",
        "50%25 'off'; \"#1\"?.db",
        "数据 ä.db",
        "back\\slash~",
    )
    with run.cluster("names") as cluster:
        one, two = cluster.primary, cluster.replica
        for name in names:
            (one.mount / name).parent.mkdir(exist_ok=True)
            fill(one.mount / name, 3)
        for name in names:
            follows(two, name, "SELECT count(*) FROM t", 3)
            images.check_same(cluster, name)
        assert sorted(db["name"] for db in one.info()["databases"]) == sorted(names)
        assert one.get("/metrics").decode().count("sqlitecluster_db_txid{") == len(names)
        for node in cluster.nodes:
            assert node.stop(), "no clean stop"
            node.start()
        (one.mount / names[0]).rename(one.mount / "moved here.db")
        run_sql(one.mount / "moved here.db", "INSERT INTO t(v) VALUES ('moved')")
        follows(two, "moved here.db", "SELECT count(*) FROM t", 4)
        (one.mount / names[1]).unlink()
        gone(two, names[1])
        copy = run.new_folder("names") / "out.db"
        command = processes.cli("export", "--url", two.api, names[2], str(copy))
        done = subprocess.run(command, env=processes.environment(), capture_output=True, text=True, timeout=60)
        assert done.returncode == 0 and value(copy, "SELECT count(*) FROM t") == 3, done.stderr


@case
def other_files_have_any_name(run: Run) -> None:
    with run.cluster("bytes") as cluster:
        mount = os.fsencode(cluster.primary.mount)
        folder, file = mount + b"/\xe7w", mount + b"/\xe7w/\xff \x01\n"
        os.mkdir(folder, 0o750)
        with open(file, "wb") as out:
            out.write(b"local")
        os.chmod(file, 0o604)
        os.rename(folder, mount + b"/\xf0")
        file = mount + b"/\xf0/\xff \x01\n"
        assert os.listdir(mount + b"/\xf0") == [b"\xff \x01\n"]
        message = error_of(lambda: run_sql(Path(os.fsdecode(mount + b"/\xf0/\xe7.db")), "CREATE TABLE t(x)"))
        assert message in ("disk I/O error", "unable to open database file"), message
        assert cluster.primary.stop(), "no clean stop"
        cluster.primary.start()
        with open(file, "rb") as again:
            assert again.read() == b"local" and stat.S_IMODE(os.fstat(again.fileno()).st_mode) == 0o604
        fill(cluster.primary.mount / "beside.db", 1)
        cluster.wait_synced("beside.db")
        for path in ("/info", "/metrics"):
            assert cluster.primary.get(path)
        for name in os.listdir(mount + b"/\xf0"):
            os.unlink(mount + b"/\xf0/" + name)
        os.rmdir(mount + b"/\xf0")
        assert "failed unexpectedly" not in cluster.primary.log.read_text(errors="replace")


@case
def other_files_can_be_refused(run: Run) -> None:
    with run.cluster("others", otherFiles="Refuse") as cluster:
        error_of(lambda: (cluster.primary.mount / "notes.txt").write_text("local\n"))
        fill(cluster.primary.mount / "still.db", 3)
        images.check_same(cluster, "still.db")


@case
def a_file_that_is_no_database_is_never_wiped(run: Run) -> None:
    cluster = run.shared()
    path = cluster.primary.mount / "looks.db"
    path.write_bytes(b"this is not SQLite" * 1000)
    time.sleep(1.0)
    assert path.read_bytes() == b"this is not SQLite" * 1000
    assert not (cluster.replica.mount / "looks.db").exists() or (cluster.replica.mount / "looks.db").stat().st_size == 0
    assert "looks.db" in str(cluster.primary.info()), "status does not report it"


@case
def ownership_and_mode_survive_a_restart(run: Run) -> None:
    with run.cluster("owner") as cluster:
        path = cluster.primary.mount / "owned.db"
        fill(path, 2)
        path.chmod(0o640)
        os.chown(path, 1234, 4321)
        (cluster.primary.mount / "sub").mkdir(mode=0o750)
        assert cluster.primary.stop(), "no clean stop"
        cluster.primary.start()
        found = path.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 1234, 4321), found
        assert stat.S_IMODE((cluster.primary.mount / "sub").stat().st_mode) == 0o750


@case
def an_empty_database_is_nothing_yet(run: Run) -> None:
    cluster = run.shared()
    (cluster.primary.mount / "empty.db").touch()
    with connect(cluster.primary.mount / "empty.db") as db:
        assert db.execute("SELECT count(*) FROM sqlite_schema").fetchone() == (0,)
        db.execute("CREATE TABLE t(x)")
        db.execute("INSERT INTO t VALUES(1)")
    follows(cluster.replica, "empty.db", "SELECT x FROM t", 1)
    images.check_same(cluster, "empty.db")


@case
def copied_over_while_open(run: Run) -> None:
    """`cp new.db target.db` below the mount becomes one transaction."""
    cluster = run.shared()
    aside = run.new_folder("aside") / "new.db"
    fill(aside, 30, journal="DELETE")
    target = cluster.primary.mount / "cp.db"
    fill(target, 3, journal="DELETE")
    follows(cluster.replica, "cp.db", "SELECT count(*) FROM t", 3)
    copy_over(aside, target)
    follows(cluster.replica, "cp.db", "SELECT count(*) FROM t", 30)
    images.check_same(cluster, "cp.db")


def copy_over(source: Path, target: Path) -> None:
    """What cp does: truncate and write."""
    shutil.copyfile(source, target)
