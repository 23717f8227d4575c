"""The lag is measured by the primary's clock, however wrong either clock is."""

from __future__ import annotations

from sqlitecluster.replicator.lag import NEVER, LagMeter

WRONG = 3_600_000  # the replica's clock is an hour ahead


def synced() -> LagMeter:
    meter = LagMeter()
    meter.heartbeat(1000, 1000 + WRONG)
    meter.visible(1000, 1002 + WRONG)
    meter.in_sync = True
    return meter


def test_before_the_first_sync_there_is_no_lag() -> None:
    assert LagMeter().lag_ms(5, waiting=False) == NEVER


def test_connected_and_idle_it_is_the_delay_of_the_last_heartbeat() -> None:
    assert synced().lag_ms(1900 + WRONG, waiting=False) == 2


def test_it_grows_while_something_waits() -> None:
    assert synced().lag_ms(1900 + WRONG, waiting=True) == 900


def test_it_grows_while_the_primary_is_silent() -> None:
    assert synced().lag_ms(11_000 + WRONG, waiting=False) == 10_000


def test_a_delayed_heartbeat_does_not_change_the_clocks_offset() -> None:
    meter = synced()
    meter.heartbeat(2000, 2500 + WRONG)
    meter.visible(2000, 2500 + WRONG)
    assert meter.lag_ms(2501 + WRONG, waiting=False) == 500
