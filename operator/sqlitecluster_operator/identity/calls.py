"""What identity needs of the Kubernetes API, as a protocol; the operator's client fulfils it.

Used by ``secrets`` and ``server``; tests bring a cluster of dictionaries.

Rules:
    1. Objects are the API's JSON as dictionaries, ``kind`` is ``Secret``, ``ConfigMap``, ``Pod``,
       ``StatefulSet`` or ``SQLiteCluster``.
    2. ``replace`` sends the object's resourceVersion, so that nothing is overwritten unseen.
    3. Every call has a timeout of its own; an API that does not answer is ``Unreachable``.
"""

from __future__ import annotations

from typing import Any, Protocol

Object = dict[str, Any]


class Conflict(Exception):
    """The object exists already, or was changed since it was read: read it again."""


class Unreachable(Exception):
    """The API server did not answer, or could not do it now."""


class Calls(Protocol):
    """The calls."""

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """The object, None when there is none."""
        ...

    async def create(self, kind: str, body: Object) -> Object:
        """Make it; raises Conflict when it exists."""
        ...

    async def replace(self, kind: str, body: Object) -> Object:
        """Replace it; raises Conflict when its resourceVersion is not the present one."""
        ...

    async def review(self, token: str, audience: str) -> Object:
        """``status`` of a TokenReview of the token for the audience."""
        ...
