"""An operator's identity endpoint on the loopback, and the folders that kubelet would fill for pods.

Everything is real but the Kubernetes API behind it, which is made of dictionaries. Used inside an
event loop (unit tests) or in a thread of its own (lanes): ``Signing.threaded()``.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from sqlitecluster_operator.identity import ca, secrets
from sqlitecluster_operator.identity.secrets import ROTATE
from sqlitecluster_operator.identity.server import utcnow
from sqlitecluster_operator.identity.service import IdentityService
from support.kubeobjects import FakeCalls

NAMESPACE = "default"


def by_hand(authority: ca.Authority, names: ca.Names, *, age_s: float = 0.0, lifetime_s: float = 600.0) -> bytes:
    """Key and certificate, made ``age_s`` ago, as one PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    begin = utcnow() - dt.timedelta(seconds=age_s)
    pem, _ = ca.sign(authority, key.public_key(), names, begin, dt.timedelta(seconds=lifetime_s))
    return ca.private_pem(key) + pem


class Signing:
    """The endpoint, clusters and projected folders."""

    def __init__(self) -> None:
        self.api = FakeCalls()
        self.service = IdentityService(self.api, "sqlitecluster-system", "https://localhost:1")
        self.url = ""
        self.port = 0
        self._folders: dict[Path, str] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    async def start(self) -> None:
        self.port = await self.service.start("127.0.0.1", self.port)
        self.url = f"https://localhost:{self.port}"

    async def stop(self) -> None:
        await self.service.stop()

    async def down(self) -> None:
        """The endpoint is gone: nobody listens."""
        await self.service.stop()

    async def up(self) -> None:
        """It is back, at its old port, with the same authorities."""
        self.service = IdentityService(self.api, "sqlitecluster-system", self.url)
        await self.start()

    async def cluster(self, name: str, pods: int = 3, **tls: str) -> None:
        """A cluster with its authority."""
        self.api.add_cluster(NAMESPACE, name, pods, **tls)
        await self.reconcile(name)

    async def reconcile(self, name: str) -> secrets.Ensured:
        """What the operator's reconcile does, and kubelet after it."""
        body = await self.api.get("SQLiteCluster", NAMESPACE, name)
        assert body is not None
        done = await self.service.ensure(body)
        for folder, cluster in self._folders.items():
            if cluster == name:
                self._fill(folder, name)
        return done

    def rotate(self, name: str, id_: str) -> None:
        """Ask for a rotation by annotation."""
        self.api.objects["SQLiteCluster", NAMESPACE, name]["metadata"]["annotations"] = {ROTATE: id_}

    def project(self, folder: Path, cluster: str, pod: str) -> Path:
        """The folder of a pod, filled."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "token").write_text(f"token-{pod}\n")
        self._folders[folder] = cluster
        self._fill(folder, cluster)
        return folder

    def authority(self, cluster: str) -> ca.Authority:
        """What signs now."""
        return secrets.from_secret(self.api.objects["Secret", NAMESPACE, f"{cluster}-ca"])

    def certificate(
        self, cluster: str, pod: str, folder: Path, *, age_s: float = 0.0, lifetime_s: float = 600.0
    ) -> tuple[Path, Path]:
        """(key and certificate, trust bundle) of a pod as files, for peers made by a test."""
        folder.mkdir(parents=True, exist_ok=True)
        authority = self.authority(cluster)
        files = folder / f"{pod}.pem", folder / f"{pod}-ca.pem"
        names = ca.pod_names(NAMESPACE, cluster, pod)
        files[0].write_bytes(by_hand(authority, names, age_s=age_s, lifetime_s=lifetime_s))
        files[1].write_bytes(authority.bundle())
        return files

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """From another thread than the endpoint's: do it there and wait."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls) -> AsyncIterator[Signing]:
        """Within the present loop."""
        made = cls()
        await made.start()
        try:
            yield made
        finally:
            await made.stop()

    @classmethod
    @contextlib.contextmanager
    def threaded(cls) -> Iterator[Signing]:
        """In a thread; talk to it by ``call``."""
        made = cls()
        loop = made._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            made.call(made.start())
            yield made
        finally:
            made.call(made.stop())
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()

    def _fill(self, folder: Path, cluster: str) -> None:
        data = self.api.objects["ConfigMap", NAMESPACE, f"{cluster}-trust"]["data"]
        for name, text in {**data, "operator-url": self.url}.items():
            new = folder / f"{name}.new"
            new.write_text(text)
            new.rename(folder / name)
