"""Asks sidecars at ``/info`` about role, lag and positions, for the status, and before a hibernation.

A sidecar that does not answer, or an operator that cannot reach pods, costs one short wait now and then.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from sqlitecluster_operator import names
from sqlitecluster_operator.reconcile.observed import PodView, Probe, Surroundings
from sqlitecluster_operator.runtime.store import Key

EVERY_S: Final = 10.0
OFTEN_S: Final = 1.0
"""While a decision waits for the answers."""
SILENT_EVERY_S: Final = 300.0
"""After no pod of a cluster answered."""
TIMEOUT_S: Final = 0.5
BODY_MAX: Final = 1 << 20
PROBLEMS_MAX: Final = 50


class InfoProbes:
    """Throttled: a cluster is asked at most every ten seconds."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._asked: dict[Key, float] = {}
        self._known: dict[Key, Mapping[str, Probe]] = {}

    async def ask(self, key: Key, around: Surroundings, *, often: bool = False) -> Mapping[str, Probe]:
        """What is known, asked anew when that is due."""
        pods = [pod for pod in around.pods if pod.ip and pod.sidecar_running]
        now = time.monotonic()
        known = self._known.get(key, {})
        every = OFTEN_S if often else EVERY_S if known else SILENT_EVERY_S
        if not pods or (key in self._asked and now < self._asked[key] + every):
            return known
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        answers = await asyncio.gather(*(self._ask(pod) for pod in pods))
        found = {pod.name: answer for pod, answer in zip(pods, answers, strict=True) if answer is not None}
        self._asked[key] = now
        self._known[key] = found
        return found

    async def close(self) -> None:
        """Close connections."""
        if self._session is not None:
            await self._session.close()

    async def _ask(self, pod: PodView) -> Probe | None:
        host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
        assert self._session is not None
        try:
            async with self._session.get(f"http://{host}:{names.PORT_METRICS}/info") as answer:
                if answer.status != 200 or (answer.content_length or 0) > BODY_MAX:
                    return None
                return read(await answer.json(content_type=None))
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError):
            return None


def read(info: Any) -> Probe | None:
    """The answer of ``/info``; what it does not say stays unknown."""
    if not isinstance(info, dict):
        return None
    lag, connected, versions = info.get("lagMs"), info.get("connected"), info.get("versions")
    reported = [one for one in info.get("problems") or () if isinstance(one, dict)]
    problems = tuple((str(one.get("code")), str(one.get("message"))[:1000]) for one in reported[:PROBLEMS_MAX])
    return Probe(
        role=str(info.get("role") or ""),
        epoch=info["epoch"] if isinstance(info.get("epoch"), int) else None,
        connected=connected if isinstance(connected, bool) else None,
        lag_s=lag / 1000 if isinstance(lag, int | float) else None,
        version=str(versions.get("sqlitecluster") or "")[:128] if isinstance(versions, dict) else "",
        problem="; ".join(text for _, text in problems)[:1000],
        problems=problems,
        positions=_positions(info.get("positions")),
    )


def _positions(found: Any) -> Mapping[str, tuple[int, int]] | None:
    """Without epochs, which a log may name otherwise than another with the same content."""
    try:
        return {str(name): (int(txid), int(checksum)) for name, (_epoch, txid, checksum) in found.items()}
    except (AttributeError, TypeError, ValueError):
        return None
