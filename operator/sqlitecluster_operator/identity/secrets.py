"""Authorities in Secrets and trust bundles in ConfigMaps: manifests, and bringing them up to date.

``ensure`` is a step of the reconcile of one cluster; ``ensure_operator`` keeps the authority
behind the operator's own endpoint. Both may run in several operators at once.

Rules:
    1. A key is written to a Secret before anything is signed with it.
    2. An object that does not carry this cluster's mark is never taken over: ``NotOurs``.
    3. A Secret that was lost is made anew; what pods trusted until then stays trusted for the
       overlap, as the trust bundle still tells it.
"""

from __future__ import annotations

import base64
import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography import x509

from sqlitecluster_operator.api.base import duration_seconds
from sqlitecluster_operator.identity import ca
from sqlitecluster_operator.identity.ca import Authority, KeyPair, Rotation
from sqlitecluster_operator.identity.calls import Calls, Conflict, Object

PREFIX: Final = "sqlitecluster.dev/"
ROTATE: Final = PREFIX + "rotate-ca"
"""Annotation of a SQLiteCluster: an id; each new one causes one rotation."""
OPERATOR_SECRET: Final = "sqlitecluster-operator-ca"
LIFETIME: Final = dt.timedelta(days=7)
_ACTIVATED: Final = PREFIX + "ca-activated"
_PUBLISHED: Final = PREFIX + "ca-published"
_ROTATION: Final = PREFIX + "ca-rotation"
_CLUSTER: Final = PREFIX + "cluster"
_OURS: Final = (_ACTIVATED, _PUBLISHED, _ROTATION)
_TRIES: Final = 5


class NotOurs(Exception):
    """An object of a name that we need belongs to somebody else."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What identity needs to know of a SQLiteCluster."""

    namespace: str
    name: str
    uid: str
    rotate: str = ""
    """Value of the annotation ``sqlitecluster.dev/rotate-ca``."""
    lifetime: dt.timedelta = LIFETIME
    """Of a pod's certificate."""
    ca_lifetime: dt.timedelta = ca.CA_LIFETIME

    @classmethod
    def of(cls, body: Object) -> Cluster:
        """From the API's JSON of a SQLiteCluster."""
        meta = body["metadata"]
        tls = (body.get("spec") or {}).get("tls") or {}
        return cls(
            meta["namespace"],
            meta["name"],
            meta["uid"],
            str((meta.get("annotations") or {}).get(ROTATE, ""))[:128],
            _duration(tls.get("certificateLifetime"), LIFETIME),
            _duration(tls.get("caLifetime"), ca.CA_LIFETIME),
        )

    @property
    def secret(self) -> str:
        """Name of the Secret with the authority."""
        return f"{self.name}-ca"

    @property
    def trust(self) -> str:
        """Name of the ConfigMap that pods read."""
        return f"{self.name}-trust"

    @property
    def times(self) -> Rotation:
        """The times of this cluster's rotations."""
        publish = min(ca.PUBLISH, self.ca_lifetime / 8)
        return Rotation(self.lifetime, publish, self.ca_lifetime * 2 / 3, self.ca_lifetime)


@dataclass(frozen=True, slots=True)
class Ensured:
    """What ``ensure`` found or made; for status and for the next reconcile."""

    not_after: dt.datetime
    """End of the signing authority."""
    rotating: bool
    again: dt.timedelta
    """Something is due after this time, also when nothing changes."""
    changed: bool
    """Something was written."""


async def ensure(api: Calls, cluster: Cluster, operator: Authority, url: str, now: dt.datetime) -> Ensured:
    """The cluster's Secret and ConfigMap as they have to be now.

    Raises:
        NotOurs: another object has one of the names.
        Conflict: others kept changing the same objects; the next reconcile tries again.
    """
    for _ in range(_TRIES):
        try:
            return await _ensure(api, cluster, operator, url, now)
        except Conflict:
            continue
    raise Conflict(f"{cluster.secret} or {cluster.trust} was changed by others {_TRIES} times in a row")


async def _ensure(api: Calls, cluster: Cluster, operator: Authority, url: str, now: dt.datetime) -> Ensured:
    secret = await api.get("Secret", cluster.namespace, cluster.secret)
    trust = await api.get("ConfigMap", cluster.namespace, cluster.trust)
    for body in (secret, trust):
        _check_ours(body, cluster)
    if secret is None:
        authority = replace(ca.make_authority(_title(cluster), now, cluster.ca_lifetime), rotation=cluster.rotate)
        authority = replace(authority, previous=_still_trusted(trust, now))
    else:
        authority = ca.advance(from_secret(secret), _title(cluster), cluster.rotate, cluster.times, now)
    changed = await _write(api, "Secret", secret, cluster_secret(cluster, authority))
    changed |= await _write(api, "ConfigMap", trust, cluster_trust(cluster, authority, operator, url))
    end = x509.load_pem_x509_certificate(authority.current.certificate).not_valid_after_utc
    rotating = authority.upcoming is not None or bool(authority.previous)
    return Ensured(end, rotating, ca.next_look(authority, cluster.times, now), changed)


async def ensure_operator(api: Calls, namespace: str, now: dt.datetime) -> Authority:
    """The authority of the operator's endpoint, made when it is missing.

    Raises:
        Conflict: others kept changing it.
    """
    times = Rotation(overlap=LIFETIME)
    for _ in range(_TRIES):
        body = await api.get("Secret", namespace, OPERATOR_SECRET)
        if body is None:
            authority = ca.make_authority("sqlitecluster operator", now)
        else:
            authority = ca.advance(from_secret(body), "sqlitecluster operator", "", times, now)
        try:
            await _write(api, "Secret", body, _secret(namespace, OPERATOR_SECRET, authority, {}, []))
        except Conflict:
            continue
        return authority
    raise Conflict(f"{OPERATOR_SECRET} was changed by others {_TRIES} times in a row")


# -- manifests -------------------------------------------------------------------------


def cluster_secret(cluster: Cluster, authority: Authority) -> Object:
    """The Secret ``<cluster>-ca``."""
    return _secret(cluster.namespace, cluster.secret, authority, _labels(cluster), _owners(cluster))


def cluster_trust(cluster: Cluster, authority: Authority, operator: Authority, url: str) -> Object:
    """The ConfigMap ``<cluster>-trust``."""
    data = {
        "ca.crt": authority.bundle().decode(),
        "operator-ca.crt": operator.bundle().decode(),
        "operator-url": url,
    }
    meta = _meta(cluster.namespace, cluster.trust, _labels(cluster), _owners(cluster))
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


def from_secret(body: Object) -> Authority:
    """The authority in a Secret.

    Raises:
        ValueError: it holds no usable certificate and key; a person has to look, or delete it.
    """
    name = body["metadata"]["name"]
    data: dict[str, bytes] = {key: base64.b64decode(value) for key, value in (body.get("data") or {}).items()}
    notes: Mapping[str, str] = body["metadata"].get("annotations") or {}
    try:
        current = _pair(data, "tls")
        upcoming = _pair(data, "next") if data.get("next.crt") else None
        activated = _time(notes.get(_ACTIVATED, ""))
        published = _time(notes[_PUBLISHED]) if upcoming else None
    except (KeyError, ValueError) as error:
        raise ValueError(f"Secret {name} holds no authority: {error}; delete it to have a new one made") from error
    previous = ca.split(data.get("previous.crt", b""))
    return Authority(current, activated, upcoming, published, previous, notes.get(_ROTATION, ""))


def _secret(
    namespace: str, name: str, authority: Authority, labels: dict[str, str], owners: list[dict[str, Any]]
) -> Object:
    data = {"tls.crt": authority.current.certificate, "tls.key": authority.current.key}
    if authority.upcoming is not None:
        data |= {"next.crt": authority.upcoming.certificate, "next.key": authority.upcoming.key}
    if authority.previous:
        data["previous.crt"] = b"".join(authority.previous)
    notes = {_ACTIVATED: authority.activated.isoformat()}
    if authority.published is not None:
        notes[_PUBLISHED] = authority.published.isoformat()
    if authority.rotation:
        notes[_ROTATION] = authority.rotation
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": {**_meta(namespace, name, labels, owners), "annotations": notes},
        "data": {key: base64.b64encode(value).decode() for key, value in data.items()},
    }


def _meta(namespace: str, name: str, labels: dict[str, str], owners: list[dict[str, Any]]) -> dict[str, Any]:
    mark = {"app.kubernetes.io/name": "sqlitecluster", "app.kubernetes.io/managed-by": "sqlitecluster-operator"}
    meta: dict[str, Any] = {"namespace": namespace, "name": name, "labels": {**mark, **labels}}
    return {**meta, "ownerReferences": owners} if owners else meta


def _labels(cluster: Cluster) -> dict[str, str]:
    return {
        "app.kubernetes.io/instance": cluster.name,
        "app.kubernetes.io/component": "database",
        _CLUSTER: cluster.name,
    }


def _owners(cluster: Cluster) -> list[dict[str, Any]]:
    owner = {"apiVersion": "sqlitecluster.dev/v1alpha1", "kind": "SQLiteCluster"}
    return [{**owner, "name": cluster.name, "uid": cluster.uid, "controller": True, "blockOwnerDeletion": True}]


# -- parts -----------------------------------------------------------------------------


async def _write(api: Calls, kind: str, have: Object | None, want: Object) -> bool:
    """Create or replace unless it is so already; labels and annotations of others stay."""
    if have is None:
        await api.create(kind, want)
        return True
    meta, wanted = have["metadata"], want["metadata"]
    labels = {**(meta.get("labels") or {}), **wanted["labels"]}
    foreign = {key: text for key, text in (meta.get("annotations") or {}).items() if key not in _OURS}
    notes = {**foreign, **wanted.get("annotations", {})}
    owners = wanted.get("ownerReferences", meta.get("ownerReferences") or [])
    body = {
        **{key: value for key, value in have.items() if key != "metadata"},
        "data": want["data"],
        "metadata": {**meta, "labels": labels, "annotations": notes, "ownerReferences": owners},
    }
    before = {
        **meta,
        "annotations": meta.get("annotations") or {},
        "ownerReferences": meta.get("ownerReferences") or [],
    }
    if have.get("data") == body["data"] and before == body["metadata"]:
        return False
    await api.replace(kind, body)
    return True


def _check_ours(body: Object | None, cluster: Cluster) -> None:
    if body is None:
        return
    meta = body["metadata"]
    owners = [o.get("uid") for o in meta.get("ownerReferences") or [] if o.get("controller")]
    if (meta.get("labels") or {}).get(_CLUSTER) != cluster.name or owners not in ([], [cluster.uid]):
        kind = body.get("kind") or "object"
        raise NotOurs(f"{kind} {cluster.namespace}/{meta['name']} exists and does not belong to this SQLiteCluster")


def _still_trusted(trust: Object | None, now: dt.datetime) -> tuple[bytes, ...]:
    text = ((trust or {}).get("data") or {}).get("ca.crt", "")
    return ca.valid(ca.split(text.encode()), now)


def _title(cluster: Cluster) -> str:
    return f"{cluster.namespace}/{cluster.name}"


def _pair(data: dict[str, bytes], name: str) -> KeyPair:
    pair = KeyPair(data[f"{name}.crt"], data[f"{name}.key"])
    x509.load_pem_x509_certificate(pair.certificate)
    return pair


def _duration(text: str | None, default: dt.timedelta) -> dt.timedelta:
    return default if text is None else dt.timedelta(seconds=duration_seconds(text))


def _time(text: str) -> dt.datetime:
    value = dt.datetime.fromisoformat(text)
    if value.tzinfo is None:
        raise ValueError(f"{text!r} names no time zone")
    return value
