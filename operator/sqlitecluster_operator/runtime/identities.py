"""When a cluster's certificate authority is looked at: when something is due, and else now and then.

What goes wrong with it is told and tried again; it never keeps the rest of a cluster from being looked after.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from sqlitecluster_operator import names
from sqlitecluster_operator.identity.calls import Conflict, Unreachable
from sqlitecluster_operator.identity.secrets import ROTATE, Ensured, NotOurs
from sqlitecluster_operator.reconcile.case import Disorder
from sqlitecluster_operator.runtime import kinds
from sqlitecluster_operator.runtime.api import APIError
from sqlitecluster_operator.runtime.store import Key, Store

EVERY_S: Final = 600.0
RETRY_S: Final = 10.0
RETRY_SOON_S: Final = 2.0
"""While pods cannot start, because there is no trust bundle yet."""


class Service(Protocol):
    """What ``identity`` offers to the reconcile."""

    async def ensure(self, body: dict[str, Any]) -> Ensured: ...


class Authorities:
    """Remembers when each cluster's turn is."""

    def __init__(self, service: Service, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._store = store
        self._clock = clock
        self._due: dict[Key, tuple[float, str, Disorder | None]] = {}
        """By cluster: when, the rotation that was asked for, and what was wrong."""

    async def ensure(self, key: Key, cluster: Mapping[str, Any]) -> Disorder | None:
        """What is wrong with the authority."""
        asked = str((cluster["metadata"].get("annotations") or {}).get(ROTATE, "")) + cluster["metadata"]["uid"]
        due, known, problem = self._due.get(key, (0.0, "", None))
        trust = (kinds.CONFIG_MAP.name, names.trust_map(key.name))
        present = trust in self._store.surroundings(key).objects
        if (present or problem) and known == asked and self._clock() < due:
            return problem
        again = EVERY_S
        try:
            again = min(EVERY_S, (await self._service.ensure(dict(cluster))).again.total_seconds())
            problem = None
        except NotOurs as error:
            problem, again = Disorder(str(error), foreign=True), RETRY_S
        except (ValueError, APIError) as error:
            problem, again = Disorder(str(error)), RETRY_S
        except (Conflict, Unreachable) as error:
            problem, again = Disorder(str(error)), RETRY_S if present else RETRY_SOON_S
        self._due[key] = (self._clock() + again, asked, problem)
        return problem

    def forget(self, key: Key) -> None:
        """The cluster is gone."""
        self._due.pop(key, None)
