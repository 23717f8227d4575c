"""Lane ``fuzz``: no input makes a decoder crash, hang, or take memory that it was not worth.

Valid files, logs, indexes, journals and streams are mutated (bits, lengths, cuts, splices,
repetitions) and given to every decoder. Allowed are a result or an error of this
package's own tree; whatever decoders agree on must agree (``decode`` and the streaming
Decoder). The address space is limited, so that an allocation for a hostile length fails
and is seen, and no input may take more than a few seconds of processor time.

Counts inputs.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from sqlitecluster import units
from sqlitecluster.errors import SQLiteClusterError
from sqlitecluster.ltx import (
    FLAG_COMPRESSED,
    Decoder,
    Generation,
    PageIndex,
    compact,
    decode,
    merge,
    parse_filename,
)
from sqlitecluster.replication import assembly, lineage, pages, position, wire
from sqlitecluster.sqlitefmt import dbheader, journal, wal, walindex
from support import lane
from support.lane import Run
from support.ltxsamples import History, some_page

SPARE_BYTES = 768 << 20  # address space beyond what is in use at the start
CPU_LIMIT_S = 5.0  # of one input; the slowest ordinary one takes some milliseconds
REPORT = 10_000  # inputs between two lines of progress
SAMPLES = 24  # originals of each kind

EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 63)
Decode = Callable[[bytes, random.Random], None]


@dataclass(frozen=True, slots=True)
class Target:
    """A decoder and what it is for."""

    samples: Sequence[bytes]
    decode: Decode


def mutate(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """One input: an original with one to four changes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(MUTATIONS)(out, others, rng)
    return bytes(out)


def _flip(out: bytearray, _others: Sequence[bytes], rng: random.Random) -> None:
    if out:
        out[_place(out, rng)] ^= 1 << rng.randrange(8)


def _extreme(out: bytearray, _others: Sequence[bytes], rng: random.Random) -> None:
    size = rng.choice((1, 2, 4, 4, 8))
    at = _place(out, rng) if out else 0
    value = rng.choice(EXTREMES) & (1 << 8 * size) - 1
    out[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))


def _cut(out: bytearray, _others: Sequence[bytes], rng: random.Random) -> None:
    del out[_place(out, rng) if out else 0 :]


def _remove(out: bytearray, _others: Sequence[bytes], rng: random.Random) -> None:
    at = _place(out, rng) if out else 0
    del out[at : at + rng.choice((1, 2, 4, 16, 512))]


def _repeat(out: bytearray, _others: Sequence[bytes], rng: random.Random) -> None:
    at = _place(out, rng) if out else 0
    piece = out[at : at + rng.choice((1, 4, 24, 512))]
    out[at:at] = piece * rng.randint(1, 4)


def _splice(out: bytearray, others: Sequence[bytes], rng: random.Random) -> None:
    other = rng.choice(others)
    at = _place(out, rng) if out else 0
    start = rng.randrange(len(other) + 1)
    out[at:] = other[start:]


def _noise(out: bytearray, _others: Sequence[bytes], rng: random.Random) -> None:
    at = _place(out, rng) if out else 0
    out[at : at + 16] = rng.randbytes(rng.randrange(32))


MUTATIONS = (_flip, _flip, _extreme, _extreme, _cut, _remove, _repeat, _splice, _noise)


def _place(out: bytearray, rng: random.Random) -> int:
    """Anywhere, but often in the first or last bytes, where lengths are."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randrange(min(len(out), 130))
    if kind == 1:
        return len(out) - 1 - rng.randrange(min(len(out), 60))
    return rng.randrange(len(out))


# --- LTX --------------------------------------------------------------------------------


def ltx_samples(rng: random.Random) -> list[bytes]:
    """Files of every generation, mostly with small pages."""
    forms = [(generation, 0) for generation in Generation] + [(Generation.G1, FLAG_COMPRESSED), (Generation.G3B, 0)]
    found = []
    for i in range(SAMPLES):
        history = History(rng, rng.choice((512, 512, 512, 1024, 4096)))
        generation, flags = forms[i % len(forms)]
        found.extend(history.step(generation=generation, flags=flags) for _ in range(3))
        found.append(history.snapshot(generation=generation, flags=flags))
    return found


def decode_ltx(data: bytes, _rng: random.Random) -> None:
    """In memory and streaming: the same result."""
    whole = streamed = None
    with suppress(SQLiteClusterError):
        whole = decode(data)
    with suppress(SQLiteClusterError):
        decoder = Decoder.of(data)
        streamed = list(decoder.pages()), decoder.trailer
    with suppress(SQLiteClusterError):
        decode(data, verify=False)
    if whole is not None and (whole.pages, whole.trailer) != streamed:
        raise AssertionError("decode accepts what the streaming Decoder refuses, or reads it otherwise")
    if streamed is not None and whole is None:
        raise AssertionError("the streaming Decoder accepts what decode refuses")


def decode_slowly(data: bytes, rng: random.Random) -> None:
    """A source that gives few bytes at a time."""
    source = io.BytesIO(data)
    for _ in Decoder(lambda size: source.read(min(size, rng.randint(1, 700)))).pages():
        pass


def read_index(data: bytes, rng: random.Random) -> None:
    """The page index from a file's tail."""
    index = PageIndex.read(lambda offset, size: data[offset : offset + size], len(data))
    for pgno in (1, 2, rng.getrandbits(32)):
        index.find(pgno)


def compact_two(data: bytes, _rng: random.Random) -> None:
    """The input as both sources, which must be refused, and alone."""
    out: list[bytes] = []
    with suppress(SQLiteClusterError):
        compact([Decoder.of(data), Decoder.of(data)], out.append)
    with suppress(SQLiteClusterError):
        merge([data])
    compact([Decoder.of(data)], out.append)


# --- SQLite's formats -------------------------------------------------------------------


def wal_samples(rng: random.Random) -> list[bytes]:
    """Logs in both checksum orders."""
    found = []
    for i in range(SAMPLES):
        size = rng.choice((512, 1024, 4096))
        header = wal.WALHeader(page_size=size, salt1=rng.getrandbits(32), salt2=i, big_endian=bool(i % 2))
        log, seed = bytearray(header.pack()), header.seed
        for _ in range(rng.choice((1, 3, 8))):
            content = [(rng.randint(1, 20), some_page(rng, size)) for _ in range(rng.randint(1, 5))]
            frames, seed = wal.build_frames(content, 20, header, seed)
            log += frames
        found.append(bytes(log))
    return found


def scan_wal(data: bytes, _rng: random.Random) -> None:
    """Header, then whatever frames are valid."""
    header = wal.WALHeader.parse(data[:32])
    found = wal.scan(data[32:], header)
    for end in found.commit_ends:
        found.pages(end)
    if found.valid and not found.pgnos[-1]:
        raise AssertionError("a frame without page number was accepted")


def index_samples(rng: random.Random) -> list[bytes]:
    """Wal-indexes with a header and one or two blocks."""
    found = []
    for _ in range(4):
        content = walindex.build_blocks([rng.randint(1, 500) for _ in range(rng.choice((3, 400, 4100)))])
        header = walindex.IndexHeader(
            change=1, page_size=4096, max_frame=3, pages=9, frame_checksum=(1, 2), salt1=3, salt2=4
        )
        content[: walindex.CONTENT_AT] = header.pack() * 2 + walindex.CheckpointInfo().pack()
        found.append(bytes(content))
    return found


def read_walindex(data: bytes, rng: random.Random) -> None:
    """Header, checkpoint information and look-ups."""
    header = walindex.read_header(data)
    with suppress(SQLiteClusterError):
        walindex.CheckpointInfo.parse(data[96:136])
    view = memoryview(bytearray(data))[: len(data) // walindex.BLOCK_SIZE * walindex.BLOCK_SIZE]
    last = header.max_frame if header else len(view) // walindex.BLOCK_SIZE * 4096
    walindex.find_frame(view, rng.randint(1, 500), last)


def journal_samples(rng: random.Random) -> list[bytes]:
    """Rollback journals of a few records."""
    found = []
    for _ in range(SAMPLES):
        count = rng.randint(0, 6)
        head = journal.MAGIC + struct.pack(">5I", rng.choice((count, 0xFFFFFFFF)), 77, 9, 512, 1024)
        parsed = journal.JournalHeader.parse(head)
        body = bytearray(head + bytes(512 - len(head)))
        for _ in range(count):
            page = some_page(rng, 1024)
            body += struct.pack(">I", rng.randint(1, 9)) + page + struct.pack(">I", parsed.record_checksum(page))
        found.append(bytes(body))
    return found


def read_journal(data: bytes, _rng: random.Random) -> None:
    """Header and records."""
    journal.is_hot(data)
    for _ in journal.JournalHeader.parse(data).records(data):
        pass


def header_samples(rng: random.Random) -> list[bytes]:
    """First pages."""
    return [dbheader.MAGIC + struct.pack(">H", size) + rng.randbytes(82) for size in (1, 512, 4096, 32768)]


def read_header(data: bytes, _rng: random.Random) -> None:
    """The database header."""
    header = dbheader.DatabaseHeader.parse(data)
    _ = header.pages, header.is_wal


# --- streams and texts ------------------------------------------------------------------


def stream_samples(rng: random.Random) -> list[bytes]:
    """Streams with every kind of frame."""
    found = []
    kinds = wire.FrameType
    for _ in range(SAMPLES):
        history = History(rng, 512)
        where = position.Position(rng.getrandbits(40), rng.getrandbits(64))
        info = wire.SnapshotInfo(512, 9, where, 5, 0)
        parts = [
            wire.encode_json(kinds.HELLO, {"protocol": 1, "clusterId": "LFSC" + "0" * 16, "node": "n1", "epoch": 3}),
            wire.encode_claim(wire.Claim("app.db", where, True, wire.Partial(900, 5, 40))),
            *wire.encode_tx("app.db", history.step()),
            *wire.encode_tx("other/x.db", history.snapshot()),
            wire.encode_snapshot(kinds.SNAPSHOT_BEGIN, "app.db", info),
            pages.encode_pages("app.db", 512, [(i, some_page(rng, 512)) for i in range(1, 9)]),
            wire.encode_snapshot(kinds.SNAPSHOT_END, "app.db", info),
            wire.encode_position(kinds.ACK, "app.db", where),
            wire.encode_heartbeat(rng.getrandbits(40)),
        ]
        rng.shuffle(parts)
        found.append(b"".join(parts))
    return found


def read_stream(data: bytes, rng: random.Random) -> None:
    """The parser in pieces, then the payload of every frame."""
    parser, together = wire.Parser(), assembly.Assembler(1 << 20)
    at = 0
    while at < len(data):
        step = rng.choice((1, 9, 300, 5000))
        for frame in parser.feed(data[at : at + step]):
            for read in (*PAYLOADS, together.feed):
                with suppress(SQLiteClusterError):
                    read(frame)
        at += step
        if parser.pending > len(data) or together.held > 1 << 20:
            raise AssertionError("the parser holds more than it was given")


PAYLOADS: tuple[Callable[[wire.Frame], object], ...] = (
    wire.decode_claim,
    wire.decode_position,
    wire.decode_heartbeat,
    wire.decode_snapshot,
    lambda frame: pages.decode_pages(frame, 512),
    lambda frame: lineage.Hello.from_wire(wire.decode_json(frame)),
)


def text_samples(rng: random.Random) -> list[bytes]:
    """Names, positions, file names and JSON objects."""
    hello = json.dumps({"protocol": 1, "clusterId": "LFSC0123456789ABCDEF", "node": "n", "nodeId": "0" * 16})
    txid = units.format_txid(rng.getrandbits(64))
    return [text.encode() for text in (f"{txid}/{txid}", f"{txid}-{txid}.ltx", "a%2Fb/c.db", "LFSC" + txid, hello)]


def read_texts(data: bytes, _rng: random.Random) -> None:
    """Every parser of a short text."""
    text = data.decode("utf-8", "surrogateescape")
    for read in (parse_filename, units.decode_name, units.check_database_name, units.parse_position, units.parse_txid):
        with suppress(SQLiteClusterError):
            read(text)
    with suppress(SQLiteClusterError):
        lineage.check_cluster_id(text)
    if units.valid_database_name(text) and (".." in text.split("/") or text.startswith("/") or "\0" in text):
        raise AssertionError("a name that leaves its folder is accepted")


def targets(rng: random.Random) -> dict[str, Target]:
    """All decoders with their originals."""
    ltx, texts = ltx_samples(rng), text_samples(rng)
    return {
        "ltx": Target(ltx, decode_ltx),
        "ltx-slowly": Target(ltx, decode_slowly),
        "ltx-index": Target(ltx, read_index),
        "ltx-compact": Target(ltx, compact_two),
        "stream": Target(stream_samples(rng), read_stream),
        "wal": Target(wal_samples(rng), scan_wal),
        "wal-index": Target(index_samples(rng), read_walindex),
        "journal": Target(journal_samples(rng), read_journal),
        "database-header": Target(header_samples(rng), read_header),
        "texts": Target(texts, read_texts),
    }


def try_one(run: Run, name: str, target: Target, number: int) -> None:
    """One input for one decoder; repeatable by seed and number."""
    rng = run.rng(number)
    data = mutate(rng.choice(target.samples), target.samples, rng)
    began = time.process_time()
    try:
        target.decode(data, rng)
    except SQLiteClusterError:
        pass
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        keep = run.folder / f"{name}-{number}.bin"
        keep.write_bytes(data)
        run.violation(f"{name}, input {number} (seed {run.seed}, {len(data)} bytes): {type(error).__name__}: {error}")
    if time.process_time() - began > CPU_LIMIT_S:
        run.violation(f"{name}, input {number} (seed {run.seed}): took {time.process_time() - began:.1f} s")


def limit_memory() -> None:
    """Make an absurd allocation fail instead of succeed lazily."""
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, resource.RLIM_INFINITY))


def body(run: Run) -> None:
    """Inputs for all decoders in turn."""
    everything = targets(run.rng("samples"))
    names = [run.options.only] if run.options.only else list(everything)
    limit_memory()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while run.done < run.wanted and len(run.violations) < 20:
        name = names[run.done % len(names)]
        try_one(run, name, everything[name], run.done)
        run.count()
        if run.done % REPORT == 0:
            run.say(f"{run.done} of {run.wanted} inputs")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
    run.say(f"memory grew by {grown} MiB")
    if grown > SPARE_BYTES >> 22:
        run.violation(f"memory grew by {grown} MiB")


def main() -> int:
    """The lane's command line."""
    run = lane.parse("fuzz", "inputs", 20_000, None)
    names = list(targets(run.rng("samples")))
    if run.options.list:
        print("\n".join(names))
        return 0
    if run.options.only and run.options.only not in names:
        sys.exit(f"no case {run.options.only!r}; see --list")
    return lane.run_lane(run, body)


if __name__ == "__main__":
    sys.exit(main())
