"""What a transaction of a newer epoch covers may be of another history: a copy is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sqlitecluster.ltx import decode, encode
from sqlitecluster.replicator.replica import ReplicaDb
from sqlitecluster.shared import NodeWord
from support.replica import Primary, Replica

INSERT = "INSERT INTO t(a) VALUES(randomblob(50))"


def _covered(tmp_path: Path, epoch: int) -> tuple[bytes, list[Path]]:
    """A replica that has transaction 2 already gets 2 and 3 as one, of some epoch."""
    primary, replica = Primary(tmp_path / "p.db"), Replica(tmp_path / "replica")
    db = ReplicaDb(replica.node, "x.db", replica.paths("x.db"))
    db.apply(primary.run("CREATE TABLE t(a)"))
    own = primary.run(INSERT)
    db.apply(own)
    second, third = decode(own), decode(primary.run(INSERT))
    header = replace(third.header, min_txid=2, pre_apply=second.header.pre_apply)
    pages = sorted({**dict(second.pages), **dict(third.pages)}.items())
    replica.node.state.node[NodeWord.EPOCH] = epoch
    db.apply(encode(header, pages, third.trailer.post_apply))
    assert db.store.position == primary.position
    db.close()
    primary.sql.close()
    return own, sorted((replica.store.data_dir / "lost+found").glob("*x.db*/*.ltx"))


def test_of_a_newer_epoch_it_is_kept(tmp_path: Path) -> None:
    own, kept = _covered(tmp_path, 7)
    assert [path.read_bytes() for path in kept] == [own]


def test_of_the_same_epoch_there_is_nothing_to_keep(tmp_path: Path) -> None:
    assert _covered(tmp_path, 0)[1] == []
