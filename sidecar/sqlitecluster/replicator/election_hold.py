"""Going on without the API server: the questions between nodes, and the file that keeps a promise.

    POST /pledge  {"holder", "epoch", "lengthNs"} → {"who", "pledged", "why"}
                  "do not take the Lease over from me for so long"; durable there before the answer

Used by ``elected``; served on the peers port. ``election.holding`` has the rules.

Rules:
    1. A pledge binds from before it is written, and is on disk before it is answered.
    2. One of another boot of the machine, or that cannot be read, binds for its whole length
       from the start of this process.
    3. Who must agree: every pod of the newest list but those that can never lead, by their
       configuration or because people barred them. Only the primary asks who these are.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from sqlitecluster.election import Elector, Holder, Instant
from sqlitecluster.election import messages as m
from sqlitecluster.election.holding import PLEDGE_MAX_NS, Pledge
from sqlitecluster.election.instants import MILLISECOND, seconds
from sqlitecluster.errors import FormatError
from sqlitecluster.kubeapi import Pod
from sqlitecluster.replicator.election_peers import Peers
from sqlitecluster.store.boot import boot_id
from sqlitecluster.store.node import NodeStore

if TYPE_CHECKING:
    from sqlitecluster.replicator.node import Replicator

_FILE: Final = "pledge"
_BODY_MAX: Final = 4096
_LOOK_S: Final = 10.0


class PledgeFile:
    """What this node promised, kept across its restarts."""

    def __init__(self, store: NodeStore) -> None:
        self._disk = store.disk
        self._path = store.data_dir / _FILE

    def read(self, now: Instant, default_ns: int) -> Pledge | None:
        """The promise that may still bind; ``default_ns``: the length of one that cannot be read."""
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            value = json.loads(raw)
            length, until = int(value["lengthNs"]), int(value["untilBootNs"])
            pledge = Pledge(str(value["holder"]), int(value["epoch"]), length, until)
            same = value["boot"] == boot_id() != 0
        except (ValueError, KeyError, TypeError):
            return Pledge("", 0, default_ns, now.boot_ns + default_ns)
        if same:
            return pledge
        return Pledge(pledge.holder, pledge.epoch, length, now.boot_ns + length)

    def write(self, pledge: Pledge) -> None:
        """Durable when this returns."""
        value = {
            "holder": pledge.holder,
            "epoch": pledge.epoch,
            "lengthNs": pledge.length_ns,
            "untilBootNs": pledge.until_ns,
            "boot": boot_id(),
        }
        self._disk.write_file(self._path, (json.dumps(value).encode() + b"\n",))


class Holds:
    """Asks and answers."""

    def __init__(self, replicator: Replicator, peers: Peers, elector: Elector, step: Callable[[m.Event], None]) -> None:
        self._replicator = replicator
        self._peers = peers
        self._elector = elector
        self._step = step
        self._times = elector.settings.times
        self._file = PledgeFile(replicator.services.store)
        self._writing = asyncio.Lock()
        self._pods: dict[str, Pod] = {}
        self._never: dict[str, bool] = {}
        self._told: frozenset[str] | None = None
        default = seconds(self._times.duration_s) + self._times.margin_ms * MILLISECOND
        elector.pledge = self._file.read(_clock(), default)

    # -- as the primary --------------------------------------------------------------

    async def run(self) -> None:
        """Know who must agree before it is needed."""
        if not self._elector.settings.hold:
            return
        looked = 0.0
        while True:
            if self._elector.is_primary and time.monotonic() - looked >= _LOOK_S:
                looked = time.monotonic()
                await self._look()
            self._tell()
            await asyncio.sleep(self._times.retry_period_s)

    async def _look(self) -> None:
        """Who can never lead, by its own word."""
        answers, _known = await self._peers.ask(0)
        for answer in answers:
            self._never[str(Holder(answer.pod, answer.uid))] = answer.never_leads

    def _tell(self) -> None:
        pods = {str(Holder(pod.name, pod.uid)): pod for pod in self._peers.pods}
        if not pods:
            return  # not listed yet
        self._pods |= pods
        record = self._elector.seen.record
        others = frozenset(
            who
            for who, pod in pods.items()
            if pod.name != self._peers.me
            and not self._never.get(who)
            and not (record is not None and record.is_kept_out(pod.name))
        )
        if others != self._told:
            self._told = others
            self._step(m.OthersKnown(others, _clock()))

    async def ask(self, question: m.AskPledges) -> None:
        """Put the question to all at once; each answer counts by itself."""
        await asyncio.gather(*(self._ask_one(who, question) for who in question.who))

    async def _ask_one(self, who: str, question: m.AskPledges) -> None:
        sent = _clock()
        pod = self._pods.get(who)
        body = {"holder": str(self._elector.me), "epoch": question.epoch, "lengthNs": question.length_ns}
        value = await self._peers.send(pod, "/pledge", body) if pod is not None else None
        if not isinstance(value, dict) or value.get("who") != who:
            why = "it does not answer"
        else:
            why = "" if value.get("pledged") is True else str(value.get("why"))[:200]
        self._step(m.PledgeAnswered(who, question.epoch, sent, _clock(), why))

    # -- as a candidate --------------------------------------------------------------

    async def pledge(self, request: web.Request) -> web.Response:
        """POST /pledge."""
        try:
            value = json.loads(await request.content.read(_BODY_MAX))
            holder, epoch, length = str(value["holder"]), int(value["epoch"]), int(value["lengthNs"])
        except (ValueError, KeyError, TypeError):
            raise FormatError("body", "", 'expected {"holder": …, "epoch": …, "lengthNs": …}') from None
        if not 0 < epoch < 1 << 60 or not 0 < length <= PLEDGE_MAX_NS:
            raise FormatError("body", epoch, "epoch or length is out of range")
        self._elector.promised(self._replicator.epoch)
        given = self._elector.asked_to_pledge(holder, epoch, length, _clock())
        who = str(self._elector.me)
        if isinstance(given, str):
            return web.json_response({"who": who, "pledged": False, "why": given})
        async with self._writing:
            newest = self._elector.pledge or given
            await asyncio.to_thread(self._file.write, newest)
        return web.json_response({"who": who, "pledged": True, "why": ""})

    # -- what people are told --------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """For ``/info``, beside the rest of the election."""
        now, pledge = _clock(), self._elector.pledge
        value: dict[str, Any] = {"holdingByAgreement": self._elector.is_holding}
        if pledge is not None and (left := pledge.left_ns(now)):
            value["pledge"] = {"holder": pledge.holder, "epoch": pledge.epoch, "leftMs": left // MILLISECOND}
        return value


def _clock() -> Instant:
    return Instant(time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns())
