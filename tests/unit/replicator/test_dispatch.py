"""Transactions of other threads reach the loop in order, with one wake-up per batch."""

from __future__ import annotations

import asyncio
import threading

from sqlitecluster.ltx import Header
from sqlitecluster.replication.position import Position
from sqlitecluster.replicator.dispatch import MAX_BATCH, Committed, Dispatcher

HEADER = Header(page_size=512, commit=1, min_txid=1, max_txid=1, timestamp_ms=0, pre_apply=0)


def test_what_happens_before_the_loop_looks_arrives_as_one_batch() -> None:
    async def scene() -> None:
        batches: list[list[Committed]] = []
        dispatcher = Dispatcher(asyncio.get_running_loop())
        dispatcher.listen(batches.append)

        def capture() -> None:
            for txid in range(1, 101):
                dispatcher.transaction("a.db", HEADER, Position(txid, 1))

        thread = threading.Thread(target=capture)
        thread.start()
        thread.join()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [entry.position.txid for batch in batches for entry in batch] == list(range(1, 101))
        assert len(batches) == 1

    asyncio.run(scene())


def test_a_loop_that_does_not_look_costs_bounded_memory_and_keeps_the_newest() -> None:
    async def scene() -> None:
        batches: list[list[Committed]] = []
        dispatcher = Dispatcher(asyncio.get_running_loop())
        dispatcher.listen(batches.append)

        def capture() -> None:
            for txid in range(1, MAX_BATCH + 100):
                dispatcher.transaction(f"{txid % 3}.db", HEADER, Position(txid, 1))

        thread = threading.Thread(target=capture)
        thread.start()
        thread.join()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        [batch] = batches
        assert len(batch) < MAX_BATCH
        assert max(entry.position.txid for entry in batch) == MAX_BATCH + 99
        assert dispatcher.merged > 0

    asyncio.run(scene())


def test_a_closed_loop_is_no_error() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    Dispatcher(loop).transaction("a.db", HEADER, Position(1, 1))
