"""Each checker accepts a good history and refuses the one that it is there for."""

from __future__ import annotations

import pytest

from support import checkers
from support.history import FAIL, OK, UNKNOWN, Applied, Away, History, Read, Term, Write, read_lines, take


def write(op: str, version: int, node: str = "n1", *, begin: float | None = None, end: float | None = None) -> Write:
    """An acknowledged register write: register 1 becomes the version."""
    begin = float(version) if begin is None else begin
    end = begin + 0.5 if end is None else end
    old = version - 1
    return Write(op, node, "register", begin, version, {"1": old}, {"1": version}, end, OK)


def read(version: int, op: str, node: str = "n2", *, begin: float = 50.0) -> Read:
    """A read of what ``write`` left."""
    registers = {"1": version} if version else {}
    return Read(node, begin, begin + 0.1, version, op, 1000, registers, "0", [])


def story(*writes: Write, final: int | None = None, mode: str = "Quorum") -> History:
    """A history whose log is these writes (the first ``final`` of them)."""
    log = [w.op for w in writes][:final]
    return History(mode=mode, writes={w.op: w for w in writes}, final=log)


def four() -> History:
    return story(write("a", 1), write("b", 2), write("c", 3), write("d", 4))


def test_a_good_history_passes_every_checker() -> None:
    history = four()
    history.reads = [read(0, "", begin=1), read(2, "b", begin=5), read(4, "d", begin=9)]
    history.terms = [Term(0, 1, "n1_u"), Term(5, 2, "n2_u")]
    history.applied = [Applied("n1", "01", "aa", 1), Applied("n2", "01", "aa", 1)]
    assert checkers.check(history) == []


def test_an_acknowledged_write_that_is_gone_is_a_loss_in_quorum() -> None:
    history = story(write("a", 1), write("b", 2), final=1)
    assert "b" in checkers.nothing_lost(history)[0]


def test_an_unknown_write_may_be_gone() -> None:
    history = story(write("a", 1), write("b", 2), final=1)
    history.writes["b"].outcome = UNKNOWN
    assert checkers.check(history) == []


def test_async_may_lose_the_end_of_an_epoch() -> None:
    lost = write("x", 2, "n1")
    history = story(write("a", 1), write("b", 2, "n2", begin=20), mode="Async")
    history.writes["x"] = lost
    assert checkers.nothing_lost(history) == []
    assert checkers.one_writer(history) == []


def test_async_may_not_lose_a_write_while_its_node_goes_on() -> None:
    history = story(write("a", 1), write("b", 2), mode="Async")
    history.writes["x"] = write("x", 2, begin=1.8)
    assert checkers.nothing_lost(history)


def test_async_may_not_lose_the_middle_of_an_epoch() -> None:
    other, kept = write("o", 2, "n2", begin=30), write("k", 3, "n1", begin=5)
    history = story(write("a", 1), other, kept, mode="Async")
    history.writes["x"] = write("x", 2, "n1", begin=4)
    assert "follows it" in checkers.nothing_lost(history)[0]


def test_two_writers_at_once_are_seen_by_the_late_acknowledgement() -> None:
    history = story(write("a", 1), write("b", 2, "n2", begin=10), mode="Async")
    history.writes["x"] = write("x", 2, "n1", begin=11)
    assert "after another node's first" in checkers.one_writer(history)[0]


def test_what_was_under_way_at_a_pause_may_be_told_late() -> None:
    history = story(write("a", 1), write("b", 2, "n2", begin=10), mode="Async")
    history.writes["x"] = write("x", 2, "n1", begin=5, end=20)
    history.away = [Away("n1", 6, 19, "paused")]
    assert checkers.one_writer(history) == []


def test_a_write_that_began_after_a_pause_may_not() -> None:
    history = story(write("a", 1), write("b", 2, "n2", begin=10), mode="Async")
    history.writes["x"] = write("x", 2, "n1", begin=19.5, end=20)
    history.away = [Away("n1", 6, 19, "paused")]
    assert checkers.one_writer(history)


def test_more_changes_of_the_writer_than_epochs_are_two_writers() -> None:
    nodes = ["n1", "n2"] * 3
    history = story(*(write(f"w{n}", n, nodes[n - 1]) for n in range(1, 7)))
    history.terms = [Term(0, 3, "n1_u"), Term(2, 4, "n2_u")]
    assert "changed 5 times" in checkers.one_writer(history)[0]


def test_a_refused_write_that_is_there() -> None:
    history = four()
    history.writes["c"].outcome = FAIL
    assert "refused" in checkers.log_is_known(history)[0]


def test_a_write_that_nobody_did() -> None:
    history = four()
    del history.writes["c"]
    assert "no client" in checkers.log_is_known(history)[0]


def test_a_write_that_is_there_twice() -> None:
    history = four()
    history.final.append("a")
    assert "twice" in checkers.log_is_known(history)[0]


def test_a_write_at_another_version() -> None:
    history = four()
    history.final[1:3] = ["c", "b"]
    assert checkers.log_is_known(history)


def test_real_time_order() -> None:
    history = story(write("a", 1, begin=5, end=6), write("b", 2, begin=1, end=2))
    assert checkers.order_is_real_time(history) == ["a precedes b, but began 3.000 s after its end"]


def test_overlapping_writes_may_come_in_any_order() -> None:
    history = story(write("a", 1, begin=1.5, end=3), write("b", 2, begin=1, end=2))
    assert checkers.order_is_real_time(history) == []


def test_a_register_that_was_read_stale() -> None:
    history = four()
    history.writes["d"].read = {"1": 2}
    assert "d read" in checkers.writes_see_the_fold(history)[0]


def test_a_list_whose_length_jumps() -> None:
    first = Write("a", "n1", "append", 1, 1, {"0": 0}, {"0": 7}, 2, OK)
    second = Write("b", "n1", "append", 3, 2, {"0": 0}, {"0": 8}, 4, OK)
    assert checkers.writes_see_the_fold(story(first, second))
    second.read = {"0": 1}
    assert checkers.writes_see_the_fold(story(first, second)) == []


def test_a_balance_that_was_written_twice() -> None:
    first = Write("a", "n1", "bank", 1, 1, {"0": 100, "1": 100}, {"0": 99, "1": 101}, 2, OK)
    second = Write("b", "n1", "bank", 3, 2, {"0": 100, "1": 101}, {"0": 99, "1": 102}, 4, OK)
    assert "b read" in checkers.writes_see_the_fold(story(first, second))[0]


def test_a_read_of_half_a_transfer() -> None:
    history = four()
    history.reads = [read(2, "b")]
    history.reads[0].total = 999
    assert "total of 999" in checkers.reads_see_a_prefix(history)[0]


def test_a_read_that_mixes_two_versions() -> None:
    history = four()
    history.reads = [read(3, "c")]
    history.reads[0].registers = {"1": 2}
    assert "registers" in checkers.reads_see_a_prefix(history)[0]


def test_a_list_that_is_no_prefix() -> None:
    history = story(
        Write("a", "n1", "append", 1, 1, {"0": 0}, {"0": 7}, 2, OK),
        Write("b", "n1", "append", 3, 2, {"0": 1}, {"0": 8}, 4, OK),
    )
    history.reads = [Read("n2", 5, 6, 2, "b", 1000, {}, "0", [7, 8]), Read("n2", 5, 6, 2, "b", 1000, {}, "0", [8])]
    assert len(checkers.reads_see_a_prefix(history)) == 1


@pytest.mark.parametrize(("mode", "found"), [("Quorum", 1), ("Async", 0)])
def test_a_read_of_a_write_that_was_lost(mode: str, found: int) -> None:
    history = story(write("a", 1), write("b", 2, "n2", begin=30), mode=mode)
    history.writes["x"] = write("x", 2, "n1")
    history.reads = [read(2, "x")]
    assert len(checkers.reads_see_a_prefix(history)) == found


def test_a_read_of_a_write_that_nobody_did() -> None:
    history = four()
    history.mode = "Async"
    history.reads = [read(5, "z")]
    assert "no client" in checkers.reads_see_a_prefix(history)[0]


def test_a_node_that_goes_back() -> None:
    history = four()
    history.reads = [read(3, "c", begin=5), read(2, "b", begin=6), read(1, "a", "n3", begin=7)]
    assert checkers.reads_never_go_back(history) == ["n2 showed version 2 after 3"]


def test_an_epoch_that_falls_or_has_two_holders() -> None:
    history = four()
    history.terms = [Term(0, 5, "n1_u"), Term(1, 4, "n2_u")]
    assert "back to 4" in checkers.epochs_rise(history)[0]
    history.terms = [Term(0, 5, "n1_u"), Term(1, 5, ""), Term(2, 5, "n2_u")]
    assert "two holders" in checkers.epochs_rise(history)[0]


def test_one_transaction_with_two_contents() -> None:
    history = four()
    history.applied = [Applied("n1", "07", "aa", 3), Applied("n2", "07", "bb", 3), Applied("n3", "07", "cc", 4)]
    assert len(checkers.one_history(history)) == 1


def test_lines_become_a_history_and_a_torn_one_is_ignored() -> None:
    text = (
        '{"k":"i","op":"a","node":"n1","kind":"register","begin":1,"version":1,"read":{},"write":{}}\n'
        '{"k":"ok","op":"a","at":2}\n'
        '{"k":"i","op":"b","node":"n1","kind":"register","begin":3,"version":2,"read":{},"write":{}}\n'
        '{"k":"ok","op":"b","a'
    )
    history = History()
    take(history, read_lines(text))
    assert [(w.op, w.outcome, w.end) for w in history.writes.values()] == [("a", OK, 2), ("b", UNKNOWN, None)]


def test_the_longest_silence_counts_both_ends() -> None:
    assert checkers.longest_silence(four(), 0.0, 30.0) == 25.5
