"""Kubernetes Events on a SQLiteCluster: one for each decision, the same one counted instead of repeated."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlitecluster_operator import names
from sqlitecluster_operator.objects.metadata import digest
from sqlitecluster_operator.reconcile.actions import Note
from sqlitecluster_operator.runtime import kinds
from sqlitecluster_operator.runtime.api import API, APIError, Conflict

log = logging.getLogger(__name__)

QUIET_S: Final = 600.0
"""The same words about the same cluster are not sent again for so long."""
MESSAGE_MAX: Final = 1000


class Events:
    """Sends them; what cannot be sent is logged and forgotten."""

    def __init__(self, api: API, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._said: dict[str, float] = {}

    async def send(self, cluster: Mapping[str, Any], notes: tuple[Note, ...]) -> None:
        """Send what was not sent lately."""
        now = self._clock()
        self._said = {words: at for words, at in self._said.items() if now - at < QUIET_S}
        for note in notes:
            words = digest([cluster["metadata"]["uid"], note.reason, note.message])
            if words in self._said:
                continue
            self._said[words] = now
            log.info(
                "%s/%s: %s: %s",
                cluster["metadata"]["namespace"],
                cluster["metadata"]["name"],
                note.reason,
                note.message,
            )
            try:
                await self._send(cluster, note, words)
            except APIError as error:
                log.warning("an Event was not sent: %s", error)

    async def _send(self, cluster: Mapping[str, Any], note: Note, words: str) -> None:
        meta = cluster["metadata"]
        name, namespace = f"{meta['name']}.{words}", meta["namespace"]
        stamp = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            await self._api.create(kinds.EVENT, namespace, _event(meta, note, name, stamp))
        except Conflict:
            known = await self._api.get(kinds.EVENT, namespace, name)
            body = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": stamp}
            await self._api.patch(kinds.EVENT, namespace, name, body)


def _event(meta: Mapping[str, Any], note: Note, name: str, stamp: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": meta["namespace"]},
        "involvedObject": {
            "apiVersion": f"{names.GROUP}/{names.VERSION}",
            "kind": names.KIND,
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta["uid"],
            "resourceVersion": meta.get("resourceVersion", ""),
        },
        "reason": note.reason,
        "message": note.message[:MESSAGE_MAX],
        "type": "Warning" if note.warning else "Normal",
        "count": 1,
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "source": {"component": names.FIELD_MANAGER},
        "reportingComponent": names.FIELD_MANAGER,
        "reportingInstance": "",
    }
