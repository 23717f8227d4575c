"""What a simulated replica may show, and when."""

from __future__ import annotations

import pytest

from support.simulation.pending import Pending


def test_nothing_is_shown_before_it_is_committed() -> None:
    pending: Pending[str] = Pending()
    pending.add(1, 1, "one")
    assert pending.commit(0) == []
    assert pending.commit(1) == ["one"]
    assert pending.commit(1) == []


def test_a_transaction_and_the_one_that_takes_it_back_are_shown_together() -> None:
    pending: Pending[str] = Pending()
    pending.add(5, 5, "failed")
    pending.add(6, 6, "taken back")
    pending.add(7, 7, "next")
    assert pending.commit(6) == ["failed", "taken back"]
    assert len(pending) == 1


def test_a_file_of_several_transactions_is_shown_when_its_last_is_committed() -> None:
    pending: Pending[str] = Pending()
    pending.add(3, 6, "file")
    assert pending.commit(5) == []
    assert pending.commit(6) == ["file"]


def test_the_limit_never_falls() -> None:
    pending: Pending[str] = Pending(9)
    pending.commit(4)
    assert pending.limit == 9
    pending.add(8, 8, "known")
    assert pending.commit(4) == ["known"]


def test_a_gap_is_refused() -> None:
    pending: Pending[str] = Pending()
    pending.add(1, 1, "one")
    with pytest.raises(ValueError, match="does not follow"):
        pending.add(3, 3, "three")
