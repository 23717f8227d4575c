"""What a request to the Kubernetes API may end with, beside an answer."""

from __future__ import annotations


class KubeError(Exception):
    """A request that was refused; ``status`` is the HTTP status, 0 when none came."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class Conflict(KubeError):
    """409: the object is another version than the one that was read."""


class NotFound(KubeError):
    """404: there is no such object."""


class Unauthorized(KubeError):
    """401 or 403: the token is not accepted, or has no right to that."""


class APIUnavailable(KubeError):
    """No answer in time, a broken connection, 429 or 5xx. A write may have been carried out."""


_BY_STATUS: dict[int, type[KubeError]] = {401: Unauthorized, 403: Unauthorized, 404: NotFound, 409: Conflict}


def error_of(status: int, what: str, reason: str) -> KubeError:
    """The error for an HTTP status."""
    kind = _BY_STATUS.get(status, APIUnavailable if status in (408, 410, 429) or status >= 500 else KubeError)
    return kind(f"{what}: {status} {reason}".strip(), status)
