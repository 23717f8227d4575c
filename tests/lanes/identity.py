"""Lane ``identity``: mutual TLS between real nodes.

Strangers (another cluster's certificate, an expired one, another pod's, none, plain HTTP) get
no byte of data, neither from a listener nor from a replica that dials them; certificates and
their authority are rotated under load without anybody noticing; an endpoint that is down
stops nothing. The endpoint is the operator's, with a Kubernetes API made of dictionaries.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import ssl
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from support import lane, probe, processes, writer
from support.clients import connect, fill, follows
from support.cluster import Cluster
from support.lane import Run, registry
from support.node import Node
from support.probe import Impostor
from support.signing import Signing

CASES, case = registry()

LIFETIME_S = 15
PAUSE_MAX_MS = 1500.0
"""For a writer on a busy machine; a certificate that is refused costs a replica seconds."""
LAG_MAX_MS = 2500


@dataclass
class Scene:
    """A cluster with identities, its signer, and another cluster's authority for strangers."""

    run: Run
    signing: Signing
    cluster: Cluster
    folder: Path

    @property
    def port(self) -> int:
        return self.cluster.primary.port("peers")

    def files(self, pod: str, cluster: str = "notes", **times: float) -> tuple[Path, Path]:
        """A certificate made by hand."""
        return self.signing.certificate(cluster, pod, self.run.new_folder("by-hand"), **times)


@contextlib.contextmanager
def scene(run: Run, nodes: int = 2, **tls: str) -> Iterator[Scene]:
    folder = run.new_folder("scene")
    with Signing.threaded() as signing:
        signing.call(signing.cluster("notes", **tls))
        signing.call(signing.cluster("other"))
        cluster = Cluster(folder / "nodes", nodes)
        for node in cluster.nodes:
            give_identity(signing, cluster, node)
        with cluster:
            yield Scene(run, signing, cluster, folder)


def pod_of(node: Node) -> str:
    return f"notes-{node.index - 1}"


def give_identity(signing: Signing, cluster: Cluster, node: Node, **more: object) -> None:
    """The configuration that the operator would write, but for the static role."""
    projected = signing.project(node.folder / "projected", "notes", pod_of(node))
    identity = {"directory": str(projected), "cluster": "default/notes", "lifetimeS": 604800}
    options: dict[str, object] = {"name": pod_of(node), "identity": identity}
    if node is not cluster.primary:
        options["primaryUrl"] = f"https://127.0.0.1:{cluster.primary.port('peers')}"
        options["primaryName"] = pod_of(cluster.primary)
    node.set_options(**{**options, **more})


# -- strangers at the door -------------------------------------------------------------


def _refused(it: Scene, context: ssl.SSLContext | None, name: str) -> None:
    """Both kinds of request get nothing: no data, and on the wire no more than an alert."""
    for request in (probe.stream_request(name), probe.info_request()):
        seen = probe.ask(it.port, context, request)
        probe.check_nothing(seen, tls=context is not None)
    _member_is_let_in(it)


def _member_is_let_in(it: Scene) -> None:
    """The probe works: a pod of the cluster gets the database."""
    pod = "notes-2"
    info = probe.ask(it.port, probe.client(it.files(pod)), probe.info_request())
    assert b"a.db" in info.data, info
    stream = probe.ask(it.port, probe.client(it.files(pod)), probe.stream_request(pod))
    assert stream.data.startswith(b"HTTP/1.1 200") and b"marker-of-the-data" in stream.data, stream.data[:200]


@contextlib.contextmanager
def _with_data(run: Run) -> Iterator[Scene]:
    with scene(run, 1) as it:
        with connect(it.cluster.primary.mount / "a.db", journal="WAL") as db:
            db.execute("CREATE TABLE t(v)")
            db.execute("INSERT INTO t VALUES('marker-of-the-data')")
        yield it


@case
def a_peer_of_another_cluster(run: Run) -> None:
    with _with_data(run) as it:
        _refused(it, probe.client(it.files("other-0", "other")), "other-0")


@case
def a_peer_whose_certificate_is_expired(run: Run) -> None:
    with _with_data(run) as it:
        _refused(it, probe.client(it.files("notes-2", age_s=3600)), "notes-2")


@case
def a_peer_without_a_certificate(run: Run) -> None:
    with _with_data(run) as it:
        _refused(it, probe.client(None), "notes-2")


@case
def a_peer_that_speaks_plain_http(run: Run) -> None:
    with _with_data(run) as it:
        _refused(it, None, "notes-2")


@case
def a_peer_with_another_pods_certificate(run: Run) -> None:
    """A pod of the cluster that says that it is another one: refused by name, and given no data."""
    with _with_data(run) as it:
        seen = probe.ask(it.port, probe.client(it.files("notes-2")), probe.stream_request("notes-1"))
        probe.check_renamed(seen)
        assert b"marker-of-the-data" not in seen.data, seen.data
        _member_is_let_in(it)


# -- strangers that are dialled --------------------------------------------------------


def _dialled(run: Run, files: str) -> None:
    """A replica is sent to an impostor: it says nothing to it, takes nothing, and tells why."""
    with scene(run) as it:
        fill(it.cluster.primary.mount / "a.db", 5)
        it.cluster.wait_synced("a.db")
        certificate = {
            "other": lambda: it.files("other-0", "other"),
            "expired": lambda: it.files("notes-0", age_s=3600),
            "pod": lambda: it.files("notes-2"),
            "plain": lambda: None,
        }[files]()
        impostor = Impostor(certificate)
        replica = it.cluster.replica
        assert replica.stop()
        give_identity(it.signing, it.cluster, replica, primaryUrl=f"https://127.0.0.1:{impostor.port}")
        replica.start()
        try:
            assert processes.wait_until(lambda: impostor.connections >= 2, limit_s=60)
            assert processes.wait_until(lambda: "NoPrimary" in str(replica.info()), limit_s=30), replica.info()
        finally:
            impostor.close()
        if files != "plain":  # there a TLS greeting arrives, which says nothing
            assert not impostor.data, impostor.data[:200]
        assert b"POST" not in impostor.data and b"a.db" not in impostor.data, impostor.data[:200]
        follows(replica, "a.db", "SELECT count(*) FROM t", 5)
        replica.stop()
        give_identity(it.signing, it.cluster, replica)
        replica.start()
        fill(it.cluster.primary.mount / "a.db", 1)
        follows(replica, "a.db", "SELECT count(*) FROM t", 6, limit_s=60)


@case
def a_primary_of_another_cluster(run: Run) -> None:
    _dialled(run, "other")


@case
def a_primary_whose_certificate_is_expired(run: Run) -> None:
    _dialled(run, "expired")


@case
def a_primary_with_another_pods_certificate(run: Run) -> None:
    _dialled(run, "pod")


@case
def a_primary_that_speaks_plain_http(run: Run) -> None:
    _dialled(run, "plain")


# -- a long life -----------------------------------------------------------------------


@dataclass
class Watch:
    """Samples the replica while something goes on: its lag, and whether it is connected."""

    node: Node
    lags: list[int] = field(default_factory=list)
    silent: int = 0
    log_from: int = 0
    """Length of the node's log when the watching began; before, nodes may have waited for each other."""
    _end: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.log_from = self.node.log.stat().st_size
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        assert self._thread is not None
        self._thread.join(20)

    def _run(self) -> None:
        while not self._end.wait(0.2):
            try:
                with urllib.request.urlopen(f"{self.node.api}/info", timeout=10) as answer:
                    lag = json.loads(answer.read()).get("lagMs")
            except OSError:
                self.silent += 1
                continue
            self.lags.append(10**9 if lag is None else int(lag))


@contextlib.contextmanager
def _writing(it: Scene, rate: int = 100) -> Iterator[Path]:
    """A program that writes to the primary; yields its record."""
    record = it.folder / "record"
    database = str(it.cluster.primary.mount / "load.db")
    command = [sys.executable, "-m", "support.writer", database, str(record), "--rate", str(rate)]
    program = processes.start(command, log=it.folder / "writer.log")
    try:
        assert processes.wait_until(lambda: record.exists() and record.stat().st_size > 0, limit_s=60)
        yield record
    finally:
        processes.end(program)


@contextlib.contextmanager
def _operator(it: Scene) -> Iterator[list[int]]:
    """The operator's reconcile and kubelet, each half second; yields how many authorities signed so far."""
    signed: dict[bytes, None] = {}
    count = [0]
    end = threading.Event()

    def reconcile() -> None:
        while not end.wait(0.5):
            it.signing.call(it.signing.reconcile("notes"))
            signed[it.signing.authority("notes").current.certificate] = None
            count[0] = len(signed)

    thread = threading.Thread(target=reconcile, daemon=True)
    thread.start()
    try:
        yield count
    finally:
        end.set()
        thread.join(20)


def _check_load(it: Scene, record: Path, watch: Watch) -> None:
    """Nobody noticed anything."""
    said = writer.read_record(record)
    assert not said.errors, said.errors[:3]
    assert max(said.pauses_ms) <= PAUSE_MAX_MS, f"a commit took {max(said.pauses_ms):.0f} ms"
    assert not watch.silent, "the replica's API did not answer"
    assert watch.lags and max(watch.lags) <= LAG_MAX_MS, f"the replica lagged {max(watch.lags)} ms"
    follows(it.cluster.replica, "load.db", "SELECT count(*) FROM t", _rows(it.cluster.primary), limit_s=60)
    lines = it.cluster.replica.log.read_bytes()[watch.log_from :].decode().splitlines()
    codes = ("NoPrimary", "StreamBroken", "NoCertificate", "ClusterMismatch")
    found = [line for line in lines if any(code in line for code in codes)]
    assert not found, "\n".join(found[:5])
    assert not it.cluster.replica.info()["problems"], it.cluster.replica.info()  # type: ignore[index]
    pauses, lags = max(said.pauses_ms), sorted(watch.lags)
    middle = lags[len(lags) // 2]
    it.run.say(f"{len(said.acknowledged)} commits, longest {pauses:.0f} ms; lag p50 {middle} ms, max {lags[-1]} ms")


def _rows(node: Node) -> int:
    with contextlib.closing(sqlite3.connect(node.mount / "load.db", timeout=30)) as db:
        return int(db.execute("SELECT count(*) FROM t").fetchone()[0])


def _certificates(node: Node) -> int:
    return node.log.read_text().count("certificate until")


@case
def rotation_under_load(run: Run) -> None:
    """Certificates of 15 s (``--lifetime-s``) and an authority that is replaced meanwhile: no interruption."""
    lifetime = run.options.lifetime_s
    with (
        scene(run, certificateLifetime=f"{lifetime}s", caLifetime=f"{lifetime * 3.2:g}s") as it,
        _operator(it) as authorities,
    ):
        it.signing.rotate("notes", "lane")
        with _writing(it) as record:
            assert processes.wait_until(lambda: "in sync" in it.cluster.replica.log.read_text(), limit_s=60)
            with Watch(it.cluster.replica) as watch:
                time.sleep(lifetime * 3.3)
        _check_load(it, record, watch)
        counts = [_certificates(node) for node in it.cluster.nodes]
        streams = it.cluster.replica.log.read_text().count("connecting anew before")
        run.say(f"certificates {counts}, authorities {authorities[0]}, streams made anew {streams}")
        assert min(counts) >= 8 and authorities[0] >= 2 and streams >= 3


@case
def an_operator_that_is_down(run: Run) -> None:
    """Nobody signs: writers and streams go on, a restarted node too; later all is renewed."""
    with scene(run, certificateLifetime="60s", caLifetime="1h") as it:
        it.signing.call(it.signing.down())
        with _writing(it) as record:
            assert processes.wait_until(lambda: "in sync" in it.cluster.replica.log.read_text(), limit_s=60)
            with Watch(it.cluster.replica) as watch:
                time.sleep(8)
            replica = it.cluster.replica
            assert replica.stop()
            replica.start()
            follows(replica, "load.db", "SELECT count(*) > 0 FROM t", 1, limit_s=30)
            it.signing.call(it.signing.up())
            before = _certificates(replica)
            assert processes.wait_until(lambda: _certificates(replica) > before, limit_s=60), it.cluster.log_tails()
        said = writer.read_record(record)
        assert not said.errors and max(said.pauses_ms) <= PAUSE_MAX_MS, said.errors[:3]
        assert max(watch.lags) <= LAG_MAX_MS, max(watch.lags)
        follows(replica, "load.db", "SELECT count(*) FROM t", _rows(it.cluster.primary), limit_s=60)


@case
def a_certificate_that_ends_ends_its_stream(run: Run) -> None:
    """Nobody signs for longer than a certificate lives: the stream ends with it, and comes back."""
    with scene(run, certificateLifetime="12s", caLifetime="1h") as it:
        fill(it.cluster.primary.mount / "a.db", 5)
        it.cluster.wait_synced("a.db")
        it.signing.call(it.signing.down())
        assert processes.wait_until(lambda: "NoCertificate" in str(it.cluster.replica.info()), limit_s=60)
        assert processes.wait_until(lambda: "NoPrimary" in str(it.cluster.replica.info()), limit_s=30)
        fill(it.cluster.primary.mount / "a.db", 1)  # the primary goes on
        follows(it.cluster.replica, "a.db", "SELECT count(*) FROM t", 5)
        it.signing.call(it.signing.up())
        follows(it.cluster.replica, "a.db", "SELECT count(*) FROM t", 6, limit_s=60)
        assert processes.wait_until(lambda: "NoCertificate" not in str(it.cluster.replica.info()), limit_s=30)


def main() -> int:
    """Entry of ``python -m lanes.identity``."""
    run = lane.parse("identity", "cases", len(CASES), _options)
    if run.options.list:
        print("\n".join(CASES))
        return 0
    return lane.run_lane(run, lambda r: lane.run_cases(r, CASES))


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lifetime-s", type=int, default=LIFETIME_S, help="of certificates (default: %(default)s)")


if __name__ == "__main__":
    sys.exit(main())
