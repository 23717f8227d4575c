"""Two nodes without a mount: real stores, real streams over the loopback, an applier that only stores."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from sqlitecluster.config.model import Listen, NodeConfig
from sqlitecluster.errors import PositionMismatch
from sqlitecluster.ltx import CHECKSUM_FLAG, Header, decode, encode, fold, page_checksums
from sqlitecluster.replication.lineage import Hello
from sqlitecluster.replicator.counters import Counters
from sqlitecluster.replicator.dispatch import Dispatcher
from sqlitecluster.replicator.epochs import EpochFile
from sqlitecluster.replicator.http_api import _application
from sqlitecluster.replicator.lag import LagMeter
from sqlitecluster.replicator.receive import Receiver
from sqlitecluster.replicator.services import Bells, NodeServices
from sqlitecluster.replicator.snapshot_send import read_pages
from sqlitecluster.replicator.stream_client import StreamClient
from sqlitecluster.replicator.stream_server import StreamHub
from sqlitecluster.replicator.work import Drop, Install, Marker, Transaction, Work, WorkQueue
from sqlitecluster.shared import Bell, NodeWord, State
from sqlitecluster.store.node import NodeStore

PAGE = 4096
CLUSTER = "LFSC0123456789ABCDEF"


def make_services(folder: Path, name: str, role: str = "primary", url: str = "") -> NodeServices:
    state = State(State.create())
    bells = Bells(
        Bell(Bell.create(), state, NodeWord.MOUNT_SLEEPING), Bell(Bell.create(), state, NodeWord.REPLICATOR_SLEEPING)
    )
    config = NodeConfig(
        name=name, data_dir=folder / name, mount_dir=folder / "mnt", role=role, primary_url=url, listen=Listen()
    )
    return NodeServices(config, NodeStore(config.data_dir), state, bells, config.mount_dir)


@dataclass
class Writer:
    """Makes transactions of one database in a primary's store, and keeps its image in step."""

    node: NodeServices
    name: str
    pages: dict[int, bytes] = field(default_factory=dict)

    def commit(self, changed: dict[int, bytes], size: int | None = None) -> None:
        db = self.node.store.open(self.name)
        self.pages.update({pgno: content.ljust(PAGE, b"\0") for pgno, content in changed.items()})
        commit = max(self.pages) if size is None else size
        self.pages = {pgno: page for pgno, page in self.pages.items() if pgno <= commit}
        (db.dir / "database").write_bytes(b"".join(self.pages[pgno] for pgno in sorted(self.pages)))
        at = db.position
        header = Header(
            page_size=PAGE,
            commit=commit,
            min_txid=at.txid + 1,
            max_txid=at.txid + 1,
            timestamp_ms=1_700_000_000_000 + at.txid,
            pre_apply=at.checksum,
        )
        numbers = sorted(n for n in changed if n <= commit)
        contents = [self.pages[n] for n in numbers]
        post = self.checksum() if commit else CHECKSUM_FLAG
        ltx = encode(header, list(zip(numbers, contents, strict=True)), post)
        db.append(ltx, header, post, numbers, page_checksums(numbers, contents))
        self.node.on_transaction(self.name, header, db.position)

    def checksum(self) -> int:
        numbers = sorted(self.pages)
        return fold(page_checksums(numbers, [self.pages[n] for n in numbers]))

    def image(self) -> bytes:
        return b"".join(self.pages[pgno] for pgno in sorted(self.pages))


class StoringApplier:
    """Stands in for the apply thread: takes work in the loop, keeps plain images."""

    def __init__(self, node: NodeServices) -> None:
        self.node = node
        self.images: dict[str, dict[int, bytes]] = {}
        self.done: list[Work] = []
        self.reclaim: Callable[[str], None] = lambda _name: None
        self.room: Callable[[], None] = lambda: None
        self.held = False
        loop = asyncio.get_running_loop()
        self.queue = WorkQueue(lambda: loop.call_soon_threadsafe(self.work_off) and None, lambda: self.room())

    def work_off(self) -> None:
        if self.held:
            return
        for work in self.queue.take():
            self._do(work)
            self.done.append(work)
            self.queue.done(work)

    def image(self, name: str) -> bytes:
        pages = self.images[name]
        return b"".join(pages[pgno] for pgno in sorted(pages))

    def _do(self, work: Work) -> None:
        if isinstance(work, Marker):
            work.reached()
        elif isinstance(work, Transaction):
            self._transaction(work)
        elif isinstance(work, Install):
            data = work.image.read_bytes()
            work.image.unlink()
            size = work.page_size
            self.images[work.name] = {i // size + 1: data[i : i + size] for i in range(0, len(data), size)}
            self._reset(work.name, work)
        elif isinstance(work, Drop):
            self.images.pop(work.name, None)
            self._reset(work.name, work)

    def _transaction(self, work: Transaction) -> None:
        db = self.node.store.open(work.name)
        file = decode(work.ltx)
        numbers = [n for n, _ in file.pages]
        try:
            sums = page_checksums(numbers, [p for _, p in file.pages])
            db.append(work.ltx, file.header, file.trailer.post_apply, numbers, sums)
        except PositionMismatch:
            self.reclaim(work.name)
            return
        pages = self.images.setdefault(work.name, {})
        pages.update(file.pages)
        self.images[work.name] = {n: p for n, p in pages.items() if n <= file.header.commit}
        db.set_applied(file.header.max_txid)

    def _reset(self, name: str, work: Install | Drop) -> None:
        db = self.node.store.open(name)
        pages = work.pages if isinstance(work, Install) else 0
        db.reset(work.position, page_size=PAGE, commit=pages, timestamp_ms=0)
        db.set_applied(work.position.txid)


class Primary:
    """A store, a hub, a port."""

    def __init__(self, folder: Path) -> None:
        self.node = make_services(folder, "n1")
        self.node.store.set_cluster_id(CLUSTER)
        self.epoch = 1
        self.counters = Counters()
        self.executor = ThreadPoolExecutor(2)
        self.hub = StreamHub(self.node, self.hello, self.counters, self.executor, read_pages)
        self.dispatcher = Dispatcher(asyncio.get_running_loop())
        self.dispatcher.listen(self.hub.transactions)
        self.node.on_transaction = self.dispatcher.transaction
        self.url = ""
        self._runner: web.AppRunner | None = None

    def hello(self) -> Hello:
        store = self.node.store
        return Hello(store.cluster_id() or "", store.node_id, "n1", self.epoch)

    async def start(self) -> None:
        app = _application()
        app.router.add_post("/stream", self.hub.handle)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self.hub.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self.executor.shutdown()
        self.node.store.close()

    def writer(self, name: str) -> Writer:
        return Writer(self.node, name)


class Replica:
    """A store and a stream client."""

    def __init__(self, folder: Path, primary_url: str, name: str = "n2") -> None:
        self.node = make_services(folder, name, "replica", primary_url)
        self.counters = Counters()
        self.lag = LagMeter()
        self.executor = ThreadPoolExecutor(1)
        self.applier = StoringApplier(self.node)
        self.receiver = Receiver(self.node, self.applier.queue, self.counters, self.executor)
        epochs = EpochFile(self.node.store)
        self.client = StreamClient(
            self.node, self.applier.queue, self.receiver, self.lag, self.hello, self.counters, epochs
        )
        self.applier.reclaim = self.client.reclaim
        self.applier.room = self.client.room
        self._task: asyncio.Task[None] | None = None

    def hello(self) -> Hello:
        store = self.node.store
        return Hello(store.cluster_id() or "", store.node_id, self.node.config.name, 0)

    def start(self) -> None:
        self._task = asyncio.create_task(self.client.run())

    async def disconnect(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None

    async def stop(self) -> None:
        await self.disconnect()
        self.executor.shutdown()
        self.node.store.close()


@dataclass
class Pair:
    """A primary and its replica, not yet connected."""

    primary: Primary
    replica: Replica

    async def follows(self, writer: Writer) -> None:
        """Wait until the replica has what the writer has."""
        await eventually(lambda: self.replica.node.store.open(writer.name).position, writer_position(writer))
        assert self.replica.applier.image(writer.name) == writer.image()


def writer_position(writer: Writer) -> object:
    return writer.node.store.open(writer.name).position


async def eventually(look: Callable[[], object], wanted: object = True, seconds: float = 60) -> None:
    """Wait until ``look`` gives ``wanted``; the test fails when it never does."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while look() != wanted:
                await asyncio.sleep(0.01)
    assert look() == wanted


@contextlib.asynccontextmanager
async def two_nodes(folder: Path) -> AsyncIterator[Pair]:
    primary = Primary(folder)
    await primary.start()
    replica = Replica(folder, primary.url)
    try:
        yield Pair(primary, replica)
    finally:
        await replica.stop()
        await primary.stop()


__all__ = ["CLUSTER", "PAGE", "Pair", "Replica", "Writer", "eventually", "make_services", "two_nodes"]
