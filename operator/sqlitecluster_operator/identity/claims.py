"""Who asks, and for which cluster: decisions over a request and the API's answers.

Pure; ``server`` fetches what is decided on here. Every refusal is a ``Refused`` with the
status, a stable code and a text for whoever reads the pod's log.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from sqlitecluster_operator.identity.calls import Object

AUDIENCE: Final = "sqlitecluster.dev"
MAX_BODY: Final = 16 * 1024
MAX_TOKEN: Final = 8 * 1024
MIN_LIFETIME: Final = dt.timedelta(seconds=10)
_EXTRA: Final = "authentication.kubernetes.io/"
_LABEL: Final = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_CLUSTER: Final = re.compile(rf"({_LABEL})/({_LABEL})")
_ACCOUNT: Final = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")


class Refused(Exception):
    """A request that gets no certificate."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.retry_after_s = status, code, message, retry_after_s


@dataclass(frozen=True, slots=True)
class Request:
    """The body of ``POST /v1/certificates``."""

    csr: bytes
    namespace: str
    cluster: str
    lifetime: dt.timedelta | None
    """What the pod would like; the operator's own limit holds."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The pod that a token is bound to."""

    namespace: str
    account: str
    pod: str
    uid: str


def read_body(raw: bytes) -> Request:
    """The request in a body."""
    if len(raw) > MAX_BODY:
        raise Refused(413, "LimitExceeded", f"the body is larger than {MAX_BODY} bytes")
    try:
        value = json.loads(raw)
        csr, cluster = value["csr"], value["cluster"]
        seconds = value.get("lifetimeSeconds")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _bad('expected JSON {"csr": PEM, "cluster": "namespace/name"}') from None
    match = _CLUSTER.fullmatch(cluster) if isinstance(cluster, str) else None
    if not isinstance(csr, str) or match is None:
        raise _bad("csr must be a PEM text, cluster a text namespace/name")
    if seconds is not None and (not isinstance(seconds, int | float) or not 0 < seconds < 1e9):
        raise _bad("lifetimeSeconds must be a number of seconds")
    lifetime = None if seconds is None else dt.timedelta(seconds=seconds)
    return Request(csr.encode(errors="replace"), match[1], match[2], lifetime)


def read_token(header: str | None) -> str:
    """The token of an Authorization header."""
    kind, _, token = (header or "").partition(" ")
    if kind.lower() != "bearer" or not token.strip():
        raise Refused(401, "NoToken", "send the pod's token as Authorization: Bearer")
    if len(token) > MAX_TOKEN:
        raise Refused(401, "InvalidToken", f"the token is longer than {MAX_TOKEN} characters")
    return token.strip()


def read_review(status: Object) -> Caller:
    """The pod behind a token, out of a TokenReview's status."""
    if status.get("authenticated") is not True:
        raise Refused(401, "InvalidToken", "the token is not valid: expired, of a deleted pod, or not for this use")
    if AUDIENCE not in (status.get("audiences") or []):
        raise Refused(401, "WrongAudience", f"the token is not for the audience {AUDIENCE}")
    user: dict[str, Any] = status.get("user") or {}
    account = _ACCOUNT.fullmatch(str(user.get("username", "")))
    pod, uid = _extra(user, "pod-name"), _extra(user, "pod-uid")
    if account is None:
        raise Refused(403, "NotAPod", "the token does not belong to a ServiceAccount")
    if not pod or not uid:
        raise Refused(403, "NotAPod", "the token is not bound to a pod")
    return Caller(account[1], account[2], pod, uid)


def check_cluster(caller: Caller, request: Request) -> None:
    """The caller's token is one of the cluster's pods'."""
    if caller.namespace != request.namespace:
        raise _forbidden(f"a pod of namespace {caller.namespace} gets nothing of {request.namespace}")
    if caller.account != request.cluster:
        raise _forbidden(f"ServiceAccount {caller.account} is not the one of cluster {request.cluster}")
    if not re.fullmatch(re.escape(request.cluster) + r"-(0|[1-9][0-9]{0,5})", caller.pod):
        raise _forbidden(f"pod {caller.pod} is no instance of cluster {request.cluster}")


def check_objects(
    caller: Caller, request: Request, cluster: Object | None, owner: Object | None, pod: Object
) -> Object:
    """The API's present objects agree: cluster, its StatefulSet, and the pod with the token's UID.

    Returns the SQLiteCluster.
    """
    if cluster is None:
        raise Refused(404, "NoSuchCluster", f"there is no SQLiteCluster {request.namespace}/{request.cluster}")
    if pod["metadata"].get("uid") != caller.uid:
        raise _forbidden(f"the token is of an earlier pod {caller.pod}")
    if owner is None or _controller(owner, "SQLiteCluster") != cluster["metadata"]["uid"]:
        raise _forbidden(f"StatefulSet {request.cluster} does not belong to the SQLiteCluster")
    if _controller(pod, "StatefulSet") != owner["metadata"]["uid"]:
        raise _forbidden(f"pod {caller.pod} was not made by StatefulSet {request.cluster}")
    return cluster


def lifetime_of(request: Request, limit: dt.timedelta) -> dt.timedelta:
    """How long the certificate lasts."""
    asked = limit if request.lifetime is None else request.lifetime
    return max(min(asked, limit), min(MIN_LIFETIME, limit))


def _controller(body: Object, kind: str) -> str | None:
    """UID of the object's controller if it is of the kind."""
    for owner in body["metadata"].get("ownerReferences") or []:
        if owner.get("controller") and owner.get("kind") == kind:
            return str(owner.get("uid"))
    return None


def _extra(user: dict[str, Any], key: str) -> str:
    values = (user.get("extra") or {}).get(_EXTRA + key) or []
    return str(values[0]) if len(values) == 1 else ""


def _bad(message: str) -> Refused:
    return Refused(400, "InvalidRequest", message)


def _forbidden(message: str) -> Refused:
    return Refused(403, "Forbidden", message)
