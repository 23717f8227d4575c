"""Watches by kopf: events feed the store and enqueue clusters, and do nothing else.

kopf gives us listing, watching, reconnecting and authentication. Not used are its change
detection, retries, finalizers, annotations and peering: a reconcile is level-triggered, so
it needs to know that something happened, not what.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final

import kopf
import kubernetes.client

from sqlitecluster_operator import names
from sqlitecluster_operator.runtime import kinds

SERVER_TIMEOUT_S: Final = 300
SILENCE_S: Final = 70.0
"""A watch without an event or a bookmark for so long is made anew; the API server sends one every minute."""
REQUEST_TIMEOUT_S: Final = 30
UNUSED_FINALIZER: Final = f"kopf.{names.GROUP}/unused"
"""Never on any object. kopf takes its finalizer away where no handler needs one, so it must not be ours."""

Seen = Callable[[kinds.Kind, Mapping[str, Any], bool], None]


def registry(
    seen: Seen, watched: Iterable[kinds.Kind], configuration: kubernetes.client.Configuration
) -> kopf.OperatorRegistry:
    """Handlers for events of all watched kinds, and our own way to log in."""
    made = kopf.OperatorRegistry()
    kopf.on.login(registry=made, id="login")(_login(configuration))
    for kind in watched:
        group, _, version = kind.api_version.rpartition("/")
        kopf.on.event(group=group, version=version, plural=kind.plural, registry=made, id=kind.plural)(
            _handler(kind, seen)
        )
    return made


def settings(watched: Iterable[kinds.Kind], namespaces: Iterable[str]) -> kopf.OperatorSettings:
    """Everything that kopf could do by itself is named here, so that an update of it changes nothing unseen."""
    made = kopf.OperatorSettings()
    made.scanning.disabled = bool(tuple(namespaces))  # without rights on the whole cluster nothing can be scanned
    made.posting.enabled = False  # Events are ours
    made.persistence.finalizer = UNUSED_FINALIZER
    made.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"kopf.{names.GROUP}")
    made.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=f"kopf.{names.GROUP}")
    made.watching.server_timeout = SERVER_TIMEOUT_S
    made.watching.client_timeout = SERVER_TIMEOUT_S + 30
    made.watching.inactivity_timeout = SILENCE_S
    made.watching.connect_timeout = 10
    made.watching.reconnect_backoff = 0.2
    made.watching.chunk_size = 200
    made.networking.request_timeout = REQUEST_TIMEOUT_S
    made.networking.connect_timeout = 10
    made.networking.error_backoffs = (0.5, 1, 2, 3)
    made.queueing.idle_timeout = 1.0
    made.queueing.error_delays = (1, 2, 5)
    made.process.ultimate_exiting_timeout = 10
    for kind in watched:
        if kind not in (kinds.CLUSTER, kinds.NODE):
            made.watching.label_selectors[kind.api_version, kind.plural] = (
                f"{names.LABEL_MANAGED_BY}={names.FIELD_MANAGER}"
            )
    return made


async def run(
    seen: Seen,
    watched: tuple[kinds.Kind, ...],
    namespaces: tuple[str, ...],
    configuration: kubernetes.client.Configuration,
    stop: asyncio.Event,
) -> None:
    """Watch until ``stop``."""
    await kopf.operator(
        registry=registry(seen, watched, configuration),
        settings=settings(watched, namespaces),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
    )


def _handler(kind: kinds.Kind, seen: Seen) -> Callable[..., Awaitable[None]]:
    async def handle(event: Mapping[str, Any], **_: Any) -> None:
        seen(kind, event["object"], event["type"] == "DELETED")

    return handle


def _login(configuration: kubernetes.client.Configuration) -> Callable[..., kopf.ConnectionInfo]:
    def login(**_: Any) -> kopf.ConnectionInfo:
        bearer = configuration.auth_settings().get("BearerToken")
        token = str(bearer["value"]).rpartition(" ")[2] if bearer else None
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            token=token,
            scheme="Bearer" if token else None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )

    return login
