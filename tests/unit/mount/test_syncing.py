"""What a sync makes durable, and which folders have to be synced for a removed journal."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlitecluster.mount.layout import Kind
from sqlitecluster.mount.name_operations import NameOperations
from sqlitecluster.mount.settling import Settling
from sqlitecluster.mount.syncing import Syncing, sync_folder


def drive(coroutine: Any) -> int:
    """Run a handler as the pool does; how many jobs it gave to threads."""
    jobs = 0
    try:
        while True:
            coroutine.send(None).run()
            jobs += 1
    except StopIteration:
        return jobs


def file_of(folder: Path, kind: Kind, removed: set[str]) -> Any:
    return SimpleNamespace(
        kind=kind,
        needs_sync=lambda: True,
        synced=lambda: None,
        path=f"{folder}/file",
        pins=0,
        database=None,
        context=SimpleNamespace(journals_removed=removed),
        descriptor=lambda: 0,
        sync=lambda *, data_only: None,
    )


def test_a_synced_journal_makes_the_removal_of_the_one_before_durable(tmp_path: Path) -> None:
    removed = {str(tmp_path), "/another"}
    drive(Syncing().sync(file_of(tmp_path, Kind.DATABASE, removed), data_only=False))
    assert str(tmp_path) in removed
    drive(Syncing().sync(file_of(tmp_path, Kind.JOURNAL, removed), data_only=False))
    assert removed == {"/another"}


def test_fsyncdir_syncs_every_folder_that_lost_a_journal(tmp_path: Path) -> None:
    operations = NameOperations.__new__(NameOperations)
    removed = {str(tmp_path), str(tmp_path / "gone with its database")}
    settling = Settling()
    for name, remover in (("mine", 5), ("another's", 6)):
        (tmp_path / name).touch()
        settling.removed(str(tmp_path / name))
        settling.removed_by(remover)
    operations._context = SimpleNamespace(journals_removed=removed, settling=settling)  # type: ignore[assignment]
    kept = operations.to_settle(5)
    assert kept == [str(tmp_path / "mine")] and not operations.names_are_durable()
    assert drive(operations.settle_names(kept, 1)) == 3
    assert operations.names_are_durable() and not operations.to_settle(5)
    assert operations.to_settle(6) == [str(tmp_path / "another's")]
    assert drive(operations.fsyncdir(1, False)) == 0


def test_a_folder_that_is_gone_needs_no_sync(tmp_path: Path) -> None:
    sync_folder(str(tmp_path / "gone"))
