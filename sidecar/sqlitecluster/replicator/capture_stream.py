"""Transactions too large for memory: encoded page by page into a file of the store.

Used for large WAL transactions, large rollback spools and snapshots of whole images.

Rules:
    1. Memory is bounded: one batch of pages, and 20 bytes for each page of the file.
    2. The file is complete and synced before the log knows about it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from sqlitecluster.ltx import Encoder, Header, fold, page_checksums
from sqlitecluster.replicator.capture_publish import CapturedDatabase, WalSpan

Batch = Sequence[tuple[int, bytes | memoryview]]


def publish_stream(
    database: CapturedDatabase,
    batches: Iterator[Batch],
    page_size: int,
    commit: int,
    commits: int,
    wal: WalSpan | None = None,
) -> Header:
    """Publish pages that arrive in ascending batches as one LTX file.

    Raises:
        NoSpace: the disk is full (nothing was changed).
        LTXError: the pages are not what a file of this kind must hold (nothing was changed).
    """
    header = database.header(page_size, commit, commits, wal)
    path = database.directory / "capture.ltx.tmp"
    numbers: list[int] = []
    sums = [np.empty(0, np.uint64)]
    try:
        with open(path, "wb", buffering=1 << 20) as file:
            encoder = Encoder(file.write, header, compress=database.node.config.compression == "LZ4")
            for batch in batches:
                pgnos = [pgno for pgno, _page in batch]
                numbers += pgnos
                database.note_writer(*batch[0])
                sums.append(page_checksums(pgnos, [page for _pgno, page in batch]))
                for pgno, page in batch:
                    encoder.page(pgno, page)
            news = np.concatenate(sums)
            checksums = database.store.checksums
            post = fold(news) if header.is_snapshot else checksums.rolling_after(numbers, news, commit)
            encoder.close(post)
            file.flush()
            os.fsync(file.fileno())
        before = database.about_to_append(header, numbers)
        database.store.append_file(path, header, post)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)
    database.node.failpoint("capture.after-append")
    if header.is_snapshot:
        checksums.reset(page_size)
    checksums.truncate(header.commit)
    checksums.set_many(np.asarray(numbers, np.int64), news)
    checksums.mark(header.max_txid)
    database.finish(header, post, wal, numbers, before)
    return header
