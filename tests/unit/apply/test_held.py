"""Transactions that a replica has and must not show yet: they become visible together, or never."""

from __future__ import annotations

from pathlib import Path

import pytest

from sqlitecluster.replicator import install, walwriter
from sqlitecluster.replicator.locks import DbPaths
from sqlitecluster.replicator.replica import ReplicaDb
from support.replica import CREATE, Primary, Replica, checkpointed, insert
from support.sqlprogram import program


def test_a_first_transaction_that_waited_is_shown_when_it_is_committed(
    db: ReplicaDb, primary: Primary, replica: Replica
) -> None:
    db.apply(primary.run(CREATE, insert(5)), is_held=True)
    assert not replica.paths("x.db").database.exists()
    db.commit(0)
    assert not replica.paths("x.db").database.exists()

    db.commit(1)

    with program(replica.paths("x.db").database) as reader:
        assert reader.run("SELECT count(*) FROM t") == [[5]]
    assert db.store.applied == 1


@pytest.mark.parametrize("size", [100, 2 * walwriter.BATCH_BYTES])
def test_a_transaction_and_the_one_that_takes_it_back_are_shown_together(
    db: ReplicaDb, primary: Primary, replica: Replica, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    db.apply(primary.run(CREATE, insert(5)))
    db.apply(primary.run(insert(1, size)), is_held=True)
    db.apply(primary.run("DELETE FROM t WHERE id > 5"), is_held=True)
    publish, seen = walwriter.WalWriter.publish, []
    with program(replica.path()) as reader:

        def publish_and_look(writer: walwriter.WalWriter, commit: int) -> None:
            publish(writer, commit)
            seen.append(reader.run("SELECT count(*) FROM t"))

        monkeypatch.setattr(walwriter.WalWriter, "publish", publish_and_look)
        db.commit(3)
    assert seen == [[[5]]]
    assert [at.txid for _name, at in replica.seen] == [1, 2, 3]
    assert checkpointed(db, replica) == primary.image


def test_a_first_transaction_and_what_takes_it_back_are_shown_together(
    db: ReplicaDb, primary: Primary, replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.apply(primary.run(CREATE, insert(5)), is_held=True)
    db.apply(primary.run("DELETE FROM t"), is_held=True)
    create, seen = install.create, []

    def create_and_look(image: install.Image, paths: DbPaths) -> None:
        create(image, paths)
        with program(paths.database) as reader:
            seen.append(reader.run("SELECT count(*) FROM t"))

    monkeypatch.setattr(install, "create", create_and_look)
    db.commit(2)
    assert seen == [[[0]]]
    assert checkpointed(db, replica) == primary.image


def test_what_was_there_before_a_drop_is_not_shown_any_more(db: ReplicaDb, primary: Primary, replica: Replica) -> None:
    db.apply(primary.run(CREATE, insert(5)), is_held=True)
    db.apply(primary.drop(), is_held=True)
    db.commit(2)
    assert [at.txid for _name, at in replica.seen] == [2]
    assert db.store.applied == 2 and not replica.path().exists()


def test_what_was_committed_in_another_history_is_not_in_this_one(
    db: ReplicaDb, primary: Primary, replica: Replica, tmp_path: Path
) -> None:
    db.apply(primary.run(CREATE, insert(5)), is_held=True)
    image = primary.snapshot(tmp_path, diverged=True)
    following = [primary.run(insert(1)) for _ in range(3)]
    for ltx in following:
        db.apply(ltx, is_held=True)
    db.commit(4)
    db.install_image(image)
    db.apply(following[0], is_held=True)
    with program(replica.path()) as reader:
        assert reader.run("SELECT count(*) FROM t") == [[5]]
        db.commit(2)
        assert reader.run("SELECT count(*) FROM t") == [[6]]
