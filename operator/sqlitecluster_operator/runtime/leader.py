"""Which of several operators works: a Lease of their own.

``Leadership`` is the decision (pure: times come in); ``hold`` performs it. Rules:
    1. A free or expired Lease is taken with the resourceVersion that was read: one of two wins.
    2. Expired means: the record did not change for its whole duration on our own clock.
    3. Who could not renew for ``renew_s``, counted from when the last good renewal was sent,
       is no leader any more, before anybody else can be; the process ends then.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import logging
import time
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from sqlitecluster_operator.runtime import kinds
from sqlitecluster_operator.runtime.api import APIError, Conflict, NotFound

log = logging.getLogger(__name__)

AGAIN_S: Final = 0.5
"""Between two tries to renew while the API does not answer as it should."""


@dataclass(frozen=True, slots=True)
class Times:
    """Of the operators' Lease, in seconds."""

    duration_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0


class Step(enum.Enum):
    """What to do after a look at the Lease."""

    WAIT = "wait"
    CREATE = "create"
    TAKE = "take"
    RENEW = "renew"


@dataclass(frozen=True, slots=True)
class Leadership:
    """What one operator knows about the Lease."""

    identity: str
    times: Times = Times()
    seen: str = ""
    """The record when it last changed."""
    seen_at: float = 0.0
    renewed_at: float | None = None
    """When our last good write was sent; None: never held."""

    def observe(self, lease: dict[str, Any] | None, now: float) -> tuple[Leadership, Step]:
        """Look at the Lease as it was read at ``now``."""
        if lease is None:
            return self, Step.CREATE
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        record = f"{holder} {spec.get('renewTime')} {spec.get('leaseTransitions')}"
        known = self if record == self.seen else replace(self, seen=record, seen_at=now)
        if holder == self.identity:
            return known, Step.RENEW
        if not holder or now - known.seen_at > float(spec.get("leaseDurationSeconds") or self.times.duration_s):
            return known, Step.TAKE
        return replace(known, renewed_at=None), Step.WAIT

    def written(self, sent_at: float) -> Leadership:
        """Our write was accepted."""
        return replace(self, renewed_at=sent_at)

    def leads(self, now: float) -> bool:
        """Whether this operator may act."""
        return self.renewed_at is not None and now - self.renewed_at < self.times.renew_s


def record(identity: str, times: Times, old: dict[str, Any] | None, now: dt.datetime) -> dict[str, Any]:
    """The spec of a Lease that we hold."""
    stamp = now.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    before = (old or {}).get("spec") or {}
    same = before.get("holderIdentity") == identity
    return {
        "holderIdentity": identity,
        "leaseDurationSeconds": int(times.duration_s),
        "acquireTime": before.get("acquireTime") if same else stamp,
        "renewTime": stamp,
        "leaseTransitions": int(before.get("leaseTransitions") or 0) + (0 if same or not before else 1),
    }


class LeaseAccess(Protocol):
    """The requests that the elector needs."""

    async def get(self, kind: kinds.Kind, namespace: str, name: str) -> dict[str, Any]: ...
    async def create(self, kind: kinds.Kind, namespace: str, body: dict[str, Any]) -> dict[str, Any]: ...
    async def replace(self, kind: kinds.Kind, body: dict[str, Any]) -> dict[str, Any]: ...


class Elector:
    """Takes the Lease and keeps it."""

    def __init__(self, api: LeaseAccess, namespace: str, name: str, identity: str, times: Times | None = None) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._state = Leadership(identity, times or Times())

    @property
    def leads(self) -> bool:
        """Whether this operator may act now."""
        return self._state.leads(time.monotonic())

    async def campaign(self) -> None:
        """Return when this operator leads."""
        while not self.leads:
            await self._round()
            if not self.leads:
                await asyncio.sleep(self._state.times.retry_s)
        log.info("this operator leads (%s)", self._state.identity)

    async def keep(self) -> None:
        """Renew; returns when the leadership is lost."""
        good = True
        while self.leads:
            await asyncio.sleep(self._state.times.retry_s if good else AGAIN_S)
            good = await self._round()
        log.error("the leadership is lost")

    async def release(self) -> None:
        """Give the Lease back, so that another operator need not wait."""
        if not self.leads:
            return
        try:
            lease = await self._api.get(kinds.LEASE, self._namespace, self._name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._state.identity:
                lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                await self._api.replace(kinds.LEASE, lease)
        except APIError as error:
            log.warning("the operator's Lease was not given back: %s", error)

    async def _round(self) -> bool:
        """Look and write once; whether the API answered."""
        try:
            async with asyncio.timeout(self._state.times.renew_s / 4):
                await self._look_and_write()
        except Conflict:
            return True
        except (APIError, TimeoutError) as error:
            words = str(error) or "no answer in time"
            log.warning("the operator's Lease %s/%s: %s", self._namespace, self._name, words)
            return False
        return True

    async def _look_and_write(self) -> None:
        try:
            lease = await self._api.get(kinds.LEASE, self._namespace, self._name)
        except NotFound:
            lease = None
        sent_at = time.monotonic()
        self._state, step = self._state.observe(lease, sent_at)
        if step is Step.WAIT:
            return
        spec = record(self._state.identity, self._state.times, lease, dt.datetime.now(dt.UTC))
        if lease is None:
            meta = {"name": self._name, "namespace": self._namespace}
            body = {"apiVersion": kinds.LEASE.api_version, "kind": "Lease", "metadata": meta, "spec": spec}
            await self._api.create(kinds.LEASE, self._namespace, body)
        else:
            await self._api.replace(kinds.LEASE, lease | {"spec": spec})
        self._state = self._state.written(sent_at)
