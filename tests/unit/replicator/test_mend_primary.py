"""On a primary nothing is judged while a commit waits for acknowledgements."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from sqlitecluster.errors import LockTimeout
from sqlitecluster.replicator.mend_primary import _Mending
from support.store_model import make


def test_the_image_of_a_commit_that_may_be_taken_back_is_not_mended(tmp_path: Path) -> None:
    store, model = make(tmp_path)
    model.write({1: b"SQLite format 3\0", 2: b"before"})
    image = dict(model.pages)
    model.store.set_in_flight(2)
    model.write({2: b"in flight"})
    node = SimpleNamespace(store=store, mount_dir=tmp_path)
    work = _Mending(node, None, model.store.name)  # type: ignore[arg-type]
    good = {2: model.pages[2]}
    with pytest.raises(LockTimeout, match="acknowledgements"):
        work._judge(image.get, [2], good)
    model.store.set_in_flight(0)
    assert work._judge(image.get, [2], good).mend == good
    store.close()
