"""Compares lists with what the watches brought: finds lost deletions, and a deaf operator.

A watch that reconnects lists what is there and says nothing of what is not any more; and a
watch can be silent for ever without an error. Both would leave an operator that acts on
what was. So everything is listed now and then: what is gone is forgotten, what is newer is
taken. Twice in a row newer than what the watch brought, and the watch is deaf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from sqlitecluster_operator import names
from sqlitecluster_operator.runtime import kinds
from sqlitecluster_operator.runtime.api import API
from sqlitecluster_operator.runtime.store import Key, Store

AUDITED: Final = (kinds.CLUSTER, kinds.POD, kinds.STATEFUL_SET, kinds.LEASE, kinds.CLAIM)
"""Of these a lost deletion matters at once; the others are found by comparing with the spec at each resync."""


class Audit:
    """Compares all kinds that matter."""

    def __init__(self, api: API, store: Store, add: Callable[[Key], None], namespaces: tuple[str, ...]) -> None:
        self._api = api
        self._store = store
        self._add = add
        self._namespaces = namespaces or ("",)
        self._heard: dict[Key, int] = {}
        self._listed: dict[Key, int] = {}

    def heard(self, key: Key, version: int) -> None:
        """The watch brought this version of a SQLiteCluster."""
        self._heard[key] = max(version, self._heard.get(key, 0))

    def gone(self, key: Key) -> None:
        """The watch brought its deletion."""
        self._heard.pop(key, None)
        self._listed.pop(key, None)

    async def run(self) -> None:
        """Compare everything that matters."""
        for kind in AUDITED:
            for namespace in self._namespaces:
                await self._compare(kind, namespace)

    async def clusters(self) -> bool:
        """Compare SQLiteClusters alone: cheap enough for each resync. False when the watch is deaf."""
        before = dict(self._listed)
        for namespace in self._namespaces:
            await self._compare(kinds.CLUSTER, namespace)
        silent = [key for key, version in before.items() if key in self._listed and self._heard.get(key, 0) < version]
        return not silent

    async def _compare(self, kind: kinds.Kind, namespace: str) -> None:
        query = {} if kind is kinds.CLUSTER else {"labelSelector": f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"}
        found, version = await self._api.list(kind, namespace, **query)
        present = {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in found}
        if kind is kinds.CLUSTER:
            self._note_listed(found, namespace)
        self._look_at(self._store.sweep(kind, namespace, present, version))
        for one in found:
            self._look_at(self._store.observe(kind, one))

    def _note_listed(self, found: Iterable[dict[str, dict[str, str]]], namespace: str) -> None:
        for key in [key for key in self._listed if not namespace or key.namespace == namespace]:
            del self._listed[key]
        for one in found:
            meta = one["metadata"]
            self._listed[Key(meta["namespace"], meta["name"])] = int(meta["resourceVersion"])

    def _look_at(self, keys: Iterable[Key]) -> None:
        for key in keys:
            self._add(key)
