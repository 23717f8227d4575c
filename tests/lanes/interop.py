"""Lane ``interop``: the reference ``ltx`` tool accepts every file we write, and we read its files.

Random histories of every page size are written by us, verified by the reference tool
(many files in one call), applied by it file after file, and compacted by us; each time the
resulting database must be ours. The same for generation 1 with the tool of LiteFS, for
databases that cross the lock page, and the other way round for ``encode-db``.

``--dir D`` verifies every ``*.ltx`` below D instead. Counts files.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.ltx import (
    CHECKSUM_FLAG,
    FLAG_COMPRESSED,
    Decoder,
    Encoder,
    Generation,
    Header,
    compact,
    decode,
    filename,
    fold,
    image_checksums,
    merge,
    page_checksum,
    rolling,
)
from support import lane
from support.gotool import NoGoError
from support.lane import Run
from support.ltxsamples import ALL_KINDS, PAGE_SIZES, History, make
from support.reference import Reference, reference

# What the reference tools' ``apply`` can follow: the newest computes 0 for an empty database,
# which its own format calls 8000000000000000, and LiteFS's does not shorten a database.
NEWEST_KINDS = ("change", "change", "grow", "shrink", "empty")
LITEFS_KINDS = ("change", "change", "grow", "empty")

STEPS = 10  # files of one history
BATCH = 200  # files verified in one call

newest = cache(lambda: reference("newest"))
litefs = cache(lambda: reference("litefs"))
Kind = Callable[[Run, random.Random], int]


def check_all(run: Run, tool: Reference, files: Sequence[Path]) -> None:
    """Have the reference tool verify files."""
    for at in range(0, len(files), BATCH):
        for complaint in tool.verify(files[at : at + BATCH]):
            run.violation(f"the reference tool refuses {complaint}")


def apply_all(run: Run, tool: Reference, folder: Path, files: Sequence[Path], image: bytes) -> None:
    """Have the reference tool apply files to nothing, and compare."""
    database = folder / "applied.db"
    database.unlink(missing_ok=True)
    wrong = tool.apply(database, files)
    if wrong:
        run.violation(f"the reference tool cannot apply: {wrong}")
    elif database.read_bytes() != image:
        run.violation(f"the reference tool makes another database of {files[-1]}")


def write_history(folder: Path, history: History, generation: Generation, flags: int) -> list[Path]:
    """``STEPS`` files that continue one another."""
    files = []
    for _ in range(STEPS):
        before = history.txid
        data = history.step(generation=generation, flags=flags)
        files.append(folder / filename(before + 1, history.txid))
        files[-1].write_bytes(data)
    return files


def histories(run: Run, rng: random.Random) -> int:
    """Chains of generation 3b, their compaction by both ways, and a snapshot of their end."""
    count = 0
    folder = run.new_folder("chain")
    everything: list[Path] = []
    for page_size in PAGE_SIZES:
        place = folder / str(page_size)
        place.mkdir()
        history = History(rng, page_size, kinds=NEWEST_KINDS)
        files = write_history(place, history, Generation.G3B, 0)
        apply_all(run, newest(), place, files, history.image)
        blobs = [file.read_bytes() for file in files]
        cut = rng.randrange(1, STEPS)
        whole, tail = place / "compacted.ltx", place / "compacted-tail.ltx"
        with whole.open("wb") as out:
            compact([Decoder.of(blob) for blob in blobs], out.write)
        tail.write_bytes(merge(blobs[cut:]))
        if merge(blobs) != whole.read_bytes():
            run.violation("streaming and in-memory compaction differ")
        apply_all(run, newest(), place, [whole], history.image)
        apply_all(run, newest(), place, [*files[:cut], tail], history.image)
        snapshot = place / "snapshot.ltx"
        snapshot.write_bytes(history.snapshot())
        apply_all(run, newest(), place, [snapshot], history.image)
        everything += [*files, whole, tail, snapshot]
        count += STEPS + 3
    check_all(run, newest(), everything)
    return count


def generation_1(run: Run, rng: random.Random) -> int:
    """Chains of generation 1, plain and compressed, for the tool of LiteFS."""
    folder = run.new_folder("generation-1")
    count = 0
    for page_size in PAGE_SIZES:
        for flags in (0, FLAG_COMPRESSED):
            place = folder / f"{page_size}-{flags}"
            place.mkdir()
            history = History(rng, page_size, kinds=LITEFS_KINDS)
            files = write_history(place, history, Generation.G1, flags)
            apply_all(run, litefs(), place, files, history.image)
            history.kinds = ALL_KINDS
            files += write_history(place, history, Generation.G1, flags)
            check_all(run, litefs(), files)
            count += len(files)
    return count


def deletions(run: Run, rng: random.Random) -> int:
    """Chains in which databases are deleted and made again; verified, compacted, and the result applied."""
    folder = run.new_folder("deletions")
    everything: list[Path] = []
    for page_size in PAGE_SIZES:
        place = folder / str(page_size)
        place.mkdir()
        history = History(rng, page_size)
        everything += write_history(place, history, Generation.G3B, 0)
        whole = place / "compacted.ltx"
        whole.write_bytes(merge([file.read_bytes() for file in everything[-STEPS:]]))
        if history.commit:
            apply_all(run, newest(), place, [whole], history.image)
        everything.append(whole)
    check_all(run, newest(), everything)
    return len(everything)


def some_database(rng: random.Random, path: Path, page_size: int) -> None:
    """A real SQLite database."""
    with sqlite3.connect(path, isolation_level=None) as database:
        database.execute(f"PRAGMA page_size = {page_size}")
        database.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT, c BLOB)")
        rows = [(f"row {rng.getrandbits(32)}", rng.randbytes(rng.randrange(300))) for _ in range(rng.randrange(400))]
        database.execute("BEGIN")
        database.executemany("INSERT INTO t (b, c) VALUES (?, ?)", rows)
        database.execute("COMMIT")
    database.close()


def reading(run: Run, rng: random.Random) -> int:
    """Files that the reference tools write of real databases."""
    folder = run.new_folder("reading")
    count = 0
    for tool, generation in ((newest(), Generation.G3B), (litefs(), Generation.G1)):
        for page_size in PAGE_SIZES:
            path, output = folder / f"{page_size}.db", folder / f"{generation.value}-{page_size}.ltx"
            path.unlink(missing_ok=True)
            some_database(rng, path, page_size)
            wrong = tool.encode_db(path, output)
            if wrong:
                run.violation(f"the reference tool cannot encode: {wrong}")
                continue
            image = path.read_bytes()
            found = decode(output.read_bytes())
            if found.generation is not generation or b"".join(page for _, page in found.pages) != image:
                run.violation(f"{output} is read wrongly (as generation {found.generation.value})")
            if found.trailer.post_apply != fold(image_checksums(1, image, page_size)):
                run.violation(f"{output}: database checksum differs")
            count += 1
    return count


def lock_page(run: Run, rng: random.Random) -> int:
    """A snapshot and a change across the page at 1 GiB, which is never stored."""
    folder = run.new_folder("lock-page")
    page_size, commit, lock = 65536, 16390, 16385
    head = Header(page_size=page_size, commit=commit, min_txid=1, max_txid=1, timestamp_ms=1, pre_apply=0)
    filled = {pgno: rng.randbytes(page_size) for pgno in (1, lock - 1, lock + 1, commit)}
    first, second = folder / filename(1, 1), folder / filename(2, 2)
    before = write_sparse_snapshot(first, head, filled)
    changed = {pgno: rng.randbytes(page_size) for pgno in (lock - 1, lock + 1)}
    after = before
    for pgno, page in changed.items():
        after = rolling(after, page_checksum(pgno, filled[pgno]), page_checksum(pgno, page))
    head = replace(head, min_txid=2, max_txid=2, timestamp_ms=2, pre_apply=before)
    second.write_bytes(make(head, changed, after, Generation.G3B))
    check_all(run, newest(), [first, second])
    wrong = newest().apply(folder / "applied.db", [first, second])
    if wrong:
        run.violation(f"the reference tool cannot apply across the lock page: {wrong}")
    with first.open("rb") as source:
        if sum(1 for _ in Decoder(source.read).pages()) != commit - 1:
            run.violation("pages are missing around the lock page")
    return 2


def write_sparse_snapshot(path: Path, header: Header, filled: dict[int, bytes]) -> int:
    """A snapshot of mostly empty pages; returns its database checksum."""
    empty, total = bytes(header.page_size), CHECKSUM_FLAG
    with path.open("wb") as out:
        encoder = Encoder(out.write, header)
        for pgno in range(1, header.commit + 1):
            if pgno != header.lock_page:
                page = filled.get(pgno, empty)
                encoder.page(pgno, page)
                total = rolling(total, 0, page_checksum(pgno, page))
        encoder.close(total)
    return total


KINDS: dict[str, Kind] = {
    "histories": histories,
    "deletions": deletions,
    "reading": reading,
    "generation-1": generation_1,
    "lock-page": lock_page,
}


def body(run: Run) -> None:
    """Every kind once, then histories and deletions in turn until the count is reached."""
    if run.options.dir is not None:
        verify_folder(run, run.options.dir)
        return
    once, again = ([], [run.options.only]) if run.options.only else (list(KINDS), ["histories", "deletions"])
    turn = 0
    while run.done < run.wanted and len(run.violations) < 20:
        name = once[turn] if turn < len(once) else again[turn % len(again)]
        run.count(KINDS[name](run, run.rng(turn)))
        for folder in run.folder.iterdir():
            shutil.rmtree(folder)
        run.say(f"{name}: {run.done} of {run.wanted} files")
        turn += 1


def verify_folder(run: Run, folder: Path) -> None:
    """Every LTX file below a folder, by the reference tool and by us."""
    files = sorted(folder.rglob("*.ltx"))
    run.wanted = len(files)
    check_all(run, newest(), files)
    for file in files:
        try:
            with file.open("rb") as source:
                for _ in Decoder(source.read).pages():
                    pass
        except SQLiteClusterError as error:
            run.violation(f"{file}: {error}")
    run.count(len(files))


def main() -> int:
    """The lane's command line."""

    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--dir", type=Path, help="verify all *.ltx files below this folder instead")

    run = lane.parse("interop", "files", 400, more)
    if run.options.list:
        print("\n".join(KINDS))
        return 0
    if run.options.only and run.options.only not in KINDS:
        sys.exit(f"no case {run.options.only!r}; see --list")
    try:
        newest()
    except NoGoError as error:
        print(f"[interop] {error}", flush=True)
        print(f"interop: 0 of {run.wanted} files, 0 violations", flush=True)
        return lane.EXIT_NOT_STARTED
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
