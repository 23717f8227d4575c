"""A node's part in electing the primary: the elector's values become requests and roles.

Made by ``node.Replicator`` when the configuration has an ``election``. Time, answers of the
Kubernetes API and of other nodes go into ``election.Elector``; what it wants is done here.

Rules:
    1. The elector runs in the event loop only. Nothing that takes long is waited for there:
       role changes go one after the other through ``_work``, requests are tasks.
    2. The fence is shut in the very turn in which the elector says so; the role follows.
    3. One request for the Lease at a time, each shorter than the retry period.
    4. Without the operator everything here works; without the API the fence ends writing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlitecluster.election import Elector, ElectorSettings, Holder, Instant, LeaseRecord
from sqlitecluster.election import messages as m
from sqlitecluster.election.instants import MILLISECOND, NEVER
from sqlitecluster.errors import SQLiteClusterError, Unavailable
from sqlitecluster.kubeapi import Conflict, Credentials, KubeAPI, KubeError, NotFound
from sqlitecluster.replicator.election_facts import Facts
from sqlitecluster.replicator.election_fetch import Fetcher
from sqlitecluster.replicator.election_hold import Holds
from sqlitecluster.replicator.election_labels import RoleLabels
from sqlitecluster.replicator.election_peers import Peers
from sqlitecluster.replicator.election_quorum import Members, quorum_info, wanted
from sqlitecluster.replicator.rolechange import PrimaryAddress

if TYPE_CHECKING:
    from sqlitecluster.replicator.node import Replicator

log = logging.getLogger(__name__)

_SLICE_S: Final = 1.0
_STOP_EXTRA_S: Final = 5.0
_WATCH_AGAIN_S: Final = 1.0
_SHUT: Final = 1
"""A fence at this moment of either clock has always passed; 0 would mean that there is none."""


def clock() -> Instant:
    """Now, on both clocks."""
    return Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())


class Elected:
    """Runs one elector."""

    def __init__(self, replicator: Replicator) -> None:
        config = replicator.services.config
        election = config.election
        if election is None:
            raise Unavailable("this node is not elected")
        self._replicator = replicator
        self._config = election
        self._problems = replicator.services.problems
        retry = election.lease.retry_period_s
        port = config.listen.peers.rpartition(":")[2]
        self._api = KubeAPI(Credentials.find(election.api_server, election.credentials_dir), election.namespace, retry)
        settings = ElectorSettings(
            me=Holder(config.name, election.pod_uid),
            times=election.lease,
            address=f"{election.address}:{port}",
            candidate=election.candidate,
            failover_delay_s=election.failover_delay_s,
            switchover_timeout_s=election.switchover_timeout_s,
            demote_delay_s=election.demote_delay_s,
            wanted=wanted(config.replication, replicator.services.store.node_id),
            hold=election.api_outage_policy == "HoldIfPeersAgree",
        )
        if why := settings.problem():
            raise Unavailable(f"election.lease: {why}")
        self.elector = Elector(settings, replicator.epoch)
        self.facts = Facts(self.elector)
        self.peers = Peers(replicator, self._api, self.elector, self._told)
        self.holds = self.peers.holds = Holds(replicator, self.peers, self.elector, self._step)
        self.members = Members(replicator.services.quorum, self.peers, self.elector, self._looked)
        self._fetcher = Fetcher(replicator.services, lambda: replicator.roles.incoming, self.peers.address)
        self._labels = RoleLabels(self._api, self.peers, self._problems, self._may_write)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._released = asyncio.Event()
        self._work: asyncio.Queue[Callable[[], Awaitable[None]]] = asyncio.Queue()
        self._draining: asyncio.Task[None] | None = None
        self._deadline = NEVER

    # -- life ------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to take part."""
        self._replicator.on_newer_epoch = lambda epoch: self._step(m.NewerEpoch(epoch, clock()))
        helpers = (self._labels.run, self.peers.run, self.holds.run, self.members.run)
        for run in (self._clockwork, self._watch, self._worker, *helpers):
            self._spawn(run())

    def hand_over(self) -> None:
        """Give the role away, and take none any more."""
        if not self._failed.done():
            self._step(m.Terminate(clock()))

    async def stop(self) -> None:
        """Give the role away if this node has it, bounded by the switchover timeout; then end."""
        if not self._failed.done():
            self.hand_over()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._config.switchover_timeout_s + _STOP_EXTRA_S):
                    await self._released.wait()
        self._shut_fence()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.peers.close()
        await self._api.close()

    async def ended(self) -> None:
        """Raises what ended the election; it never ends by itself."""
        await asyncio.shield(self._failed)

    # -- the elector -----------------------------------------------------------------

    def _step(self, event: m.Event) -> None:
        self.elector.promised(self._replicator.epoch, self._replicator.services.store.cluster_id() or "")
        for action in self.elector.step(event):
            self._do(action)

    def _told(self, ready: m.HandOffReady) -> None:
        """The old primary told this node that the Lease is its own now."""
        self._step(ready)

    def _looked(self, short: bool = False) -> None:
        """Time has passed; a primary whose commits wait for others looks at them, too."""
        if self.elector.is_primary and self.members.is_used:
            self._step(self.members.look(clock(), short=short))
        else:
            self._step(m.Tick(clock()))

    def _do(self, action: m.Action) -> None:
        match action:
            case m.ReadLease():
                self._spawn(self._read())
            case m.PutLease(record):
                self._spawn(self._put(record))
            case m.AskPeers() | m.FetchMissing() | m.AskPledges():
                self._do_ask(action)
            case m.SetFence(deadline):
                self._set_fence(deadline)
            case m.TellTarget(pod, record, drained_at, started_at):
                self._spawn(self.peers.tell(pod, record, drained_at, started_at))
            case m.Report(code, message):
                self._report(code, message)
            case m.SetMembers():
                self.members.set(action)
            case m.Released():
                self._work.put_nowait(self._let_go)
            case _:
                self._do_role(action)

    def _do_ask(self, action: m.AskPeers | m.FetchMissing | m.AskPledges) -> None:
        """What needs the answers of peers."""
        match action:
            case m.AskPeers(epoch):
                self._spawn(self._ask(epoch))
            case m.FetchMissing(lacks, epoch):
                self._spawn(self._fetch(lacks, epoch))
            case m.AskPledges():
                self._spawn(self.holds.ask(action))

    def _do_role(self, action: m.Action) -> None:
        """What takes long, one after the other."""
        match action:
            case m.Note(epoch):
                self._work.put_nowait(lambda: self._note(epoch))
            case m.BecomePrimary(epoch):
                self._work.put_nowait(lambda: self._become_primary(epoch))
            case m.Demote(reason):
                self.facts.demoted(reason)
                log.info("no longer the primary: %s", reason)
                self._work.put_nowait(self._demote)
            case m.Follow(pod, address, epoch):
                self._work.put_nowait(lambda: self._follow(pod, address, epoch))
            case m.Drain(pod, limit_s):
                self._draining = self._spawn(self._drain(pod, limit_s))
            case m.Resume():
                self._work.put_nowait(self._resume)

    def _set_fence(self, deadline: Instant) -> None:
        self._deadline = Instant(_SHUT, _SHUT) if deadline == NEVER else deadline
        self._replicator.set_fence(self._deadline.boot_ns, self._deadline.real_ns)

    def _shut_fence(self) -> None:
        self._set_fence(NEVER)

    def _report(self, code: str, message: str) -> None:
        if message:
            self._problems.report(code, message)
        else:
            self._problems.clear(code)

    # -- tasks -----------------------------------------------------------------------

    def _spawn(self, coroutine: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not self._failed.done():
            self._shut_fence()
            self._failed.set_exception(error)

    async def _clockwork(self) -> None:
        pause = max(0.02, self._config.lease.retry_period_s / 10)
        while True:
            self._looked()
            await asyncio.sleep(pause)

    async def _watch(self) -> None:
        """News of the Lease at once; without it the elector asks every retry period or so."""
        while True:
            try:
                async for value in self._api.watch_lease(self._config.cluster):
                    now = clock()
                    record = LeaseRecord.from_object(value) if value is not None else None
                    self._step(m.LeaseRead(record, now, now, watched=True))
            except KubeError as error:
                log.debug("%s", error)
            await asyncio.sleep(_WATCH_AGAIN_S)

    # -- the Lease -------------------------------------------------------------------

    async def _read(self) -> None:
        sent = clock()
        try:
            value: dict[str, Any] | None = await self._api.get_lease(self._config.cluster)
        except NotFound:
            value = None
        except KubeError as error:
            self._failure(error, sent)
            return
        self._problems.clear("LeaseUnreachable")
        record = LeaseRecord.from_object(value) if value is not None else None
        self._step(m.LeaseRead(record, sent, clock()))

    async def _put(self, record: LeaseRecord) -> None:
        sent = clock()
        try:
            value = await self._api.put_lease(self._config.cluster, record.to_object())
        except (Conflict, NotFound):
            self._step(m.LeaseConflict(clock()))
            return
        except KubeError as error:
            self._failure(error, sent)
            return
        received = clock()
        self.facts.renewed(received.since(sent))
        self._problems.clear("LeaseUnreachable")
        self._step(m.LeasePut(LeaseRecord.from_object(value), sent, received))

    def _failure(self, error: KubeError, sent: Instant) -> None:
        self.facts.failed()
        self._problems.report("LeaseUnreachable", f"the Lease cannot be read or renewed: {error}")
        self._step(m.LeaseFailed(str(error), sent, clock()))

    async def _ask(self, epoch: int) -> None:
        answers, known = await self.peers.ask(epoch)
        local, pods = self.peers.local(), self.peers.existing()
        self._step(m.PeersAnswered(local, answers, known, clock(), pods=pods))

    async def _fetch(self, lacks: Sequence[m.Lack], epoch: int) -> None:
        await self._fetcher.fetch(lacks)
        await self._ask(epoch)

    # -- roles -----------------------------------------------------------------------

    async def _worker(self) -> None:
        while True:
            work = await self._work.get()
            await work()

    async def _note(self, epoch: int) -> None:
        if self._replicator.roles.is_primary and not self.elector.is_primary and not self._work.empty():
            self._work.put_nowait(lambda: self._note(epoch))  # first the end of the role, which waits behind this
        elif epoch > self._replicator.epoch:
            await self._replicator.promise(epoch)

    async def _become_primary(self, epoch: int) -> None:
        if not self._is_still(epoch):
            return
        self._set_fence(self._deadline)  # an end of the role before this one took the fence away
        try:
            await self._replicator.become_primary(epoch)
        except SQLiteClusterError as error:
            log.error("cannot be the primary: %s", error.message)
            self._step(m.NotOpened(epoch, error.message, clock()))
            return
        if not self._is_still(epoch):
            return  # a Demote waits behind this
        self.facts.opened()
        log.info("primary in epoch %d", epoch)
        self._labels.primary(self.elector.me.pod)
        self._step(m.Opened(epoch, clock()))

    def _is_still(self, epoch: int) -> bool:
        return self.elector.is_primary and self.elector.epoch == epoch

    async def _demote(self) -> None:
        await self._stop_draining()
        await self._replicator.become_replica(None)
        self._labels.replica()

    async def _follow(self, pod: str, address: str, epoch: int) -> None:
        if self.elector.is_primary:
            return
        log.info("the primary is %s, epoch %d", pod, epoch)
        await self._replicator.become_replica(self._address(pod, address))
        self._labels.replica()

    def _address(self, pod: str, address: str) -> PrimaryAddress:
        scheme = "http" if self._replicator.services.identity is None else "https"
        domain = self._config.peer_domain or f"{self._config.cluster}-pods.{self._config.namespace}.svc"
        return PrimaryAddress(pod, f"{scheme}://{address}", f"{pod}.{domain}")

    async def _drain(self, pod: str, limit_s: float) -> None:
        """Drain in slices, so that a demotion need not wait for the limit."""
        deadline = time.monotonic() + limit_s
        try:
            positions = await self._drained(deadline)
            if pod and not await self._replicator.wait_acknowledged(pod, positions, deadline):
                self._step(m.NotDrained(f"{pod} went away or did not acknowledge everything in time", clock()))
                return
        except SQLiteClusterError as error:
            self._step(m.NotDrained(error.message, clock()))
            return
        self._step(m.Drained(clock()))

    async def _drained(self, deadline: float) -> dict[str, tuple[int, int, int]]:
        while True:
            until = min(deadline, time.monotonic() + _SLICE_S)
            try:
                return await self._replicator.drain(until)
            except SQLiteClusterError:
                if time.monotonic() >= deadline:
                    raise

    async def _stop_draining(self) -> None:
        task, self._draining = self._draining, None
        if task is not None and not task.done() and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait((task,))

    async def _resume(self) -> None:
        await self._stop_draining()
        if self.elector.is_primary:
            await self._replicator.resume()

    async def _let_go(self) -> None:
        """Everything that was asked for before the end is done."""
        self._released.set()

    def _may_write(self) -> bool:
        return self.elector.fence_ms(clock()) > 0

    # -- what others are told --------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """For ``/info``."""
        now = clock()
        record = self.elector.seen.record
        value: dict[str, Any] = {
            "holder": record.holder if record else "",
            "epoch": record.epoch if record else 0,
            "fenceMs": self.elector.fence_ms(now),
            "candidate": self._config.candidate,
            "transitions": self.facts.transitions,
            "handOff": self.elector.transfer.phase.value if self.elector.transfer else None,
        }
        value |= self.holds.info()
        heard = self.elector.seen.at
        value["quorum"] = quorum_info(record)
        value["leaseReadMsAgo"] = now.since(heard) // MILLISECOND if heard is not None else None
        return value
