"""Lane ``kube-trust``: who is let in to pods of a deployed cluster, and certificates that are replaced under load.

Strangers stand beside the nodes and reach a pod as another pod would: with the certificate of another cluster's pod,
an expired one, another pod's, none, or plain HTTP. They get no byte of data; a pod of the cluster does.
``rotation-under-load``: certificates live 60 s and their authority is replaced, while programs write 100 rows a second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlitecluster_operator import names
from sqlitecluster_operator.identity import ca, secrets
from sqlitecluster_operator.identity.secrets import ROTATE
from sqlitecluster_operator.objects import nodeconfig
from support import kube, ledger, podparts, probe
from support.lane import Run, scene_main
from support.metricwatch import MetricWatch
from support.sampled import Sampled
from support.signing import by_hand

LIFETIME_S = 60
CA_LIFETIME_S = 16 * 60
"""A new authority is published for an eighth of it before it signs: kubelet brings it to pods in a minute or two."""
ROTATION_LIMIT_S = 420.0
SILENCE_MAX_S = 1.5
LAG_MAX_S = 2.5
PROBE_LIMIT_S = 30.0


class Door:
    """The peers' port of one pod, and what strangers bring."""

    def __init__(self, run: Run, sampled: Sampled, other: Sampled) -> None:
        self.sampled, self.other = sampled, other
        self.folder = run.new_folder("certificates")
        self.pod = sampled.holder()
        self.guest = sampled.replica()

    def ask(self, say: str, name: str = "", certificate: bytes | None = None) -> probe.Seen:
        """One connection from beside the nodes."""
        address = kube.get(f"pod/{self.pod}", self.sampled.namespace)["status"]["podIP"]
        command = [sys.executable, "-m", "support.probe", address, str(names.PORT_PEERS), "--say", say, "--name", name]
        if certificate is not None:
            path = self.folder / "peer.pem"
            path.write_bytes(certificate)
            command += ["--certificate", str(path)]
        done = kube.client(command, limit_s=PROBE_LIMIT_S)
        assert done.returncode == 0, done.stderr[-1000:]
        return probe.from_json(done.stdout)

    def member(self) -> bytes:
        """The certificate of a pod of the cluster, from its volume."""
        return _certificate(self.sampled, self.guest)


def _certificate(sampled: Sampled, pod: str) -> bytes:
    return (podparts.data_dir(sampled, pod) / "identity" / "pod.pem").read_bytes()


def _members_are_let_in(door: Door) -> None:
    """The probe works: with a pod's certificate there is data."""
    info = door.ask("info", certificate=door.member())
    assert b"app.db" in info.data, info
    stream = door.ask("stream", door.guest, door.member())
    assert stream.data.startswith(b"HTTP/1.1 200") and len(stream.data) > 10_000, (len(stream.data), stream.data[:200])


def _turned_away(door: Door, name: str, certificate: bytes | None, *, tls: bool = True) -> None:
    for what in ("stream", "info"):
        probe.check_nothing(door.ask(what if tls else f"plain-{what}", name, certificate), tls=tls)
    _members_are_let_in(door)


def a_peer_of_another_cluster(door: Door, _run: Run) -> None:
    _turned_away(door, f"{door.other.name}-0", _certificate(door.other, f"{door.other.name}-0"))


def a_peer_whose_certificate_is_expired(door: Door, _run: Run) -> None:
    """From the cluster's own authority."""
    own = ca.pod_names(door.sampled.namespace, door.sampled.name, door.guest)
    _turned_away(door, door.guest, by_hand(_authority(door.sampled), own, age_s=3600))


def a_peer_without_a_certificate(door: Door, _run: Run) -> None:
    _turned_away(door, door.guest, None)


def a_peer_that_speaks_plain_http(door: Door, _run: Run) -> None:
    _turned_away(door, door.guest, None, tls=False)


def a_peer_with_another_pods_certificate(door: Door, _run: Run) -> None:
    """A pod of the cluster that says that it is another one."""
    third = next(pod for pod in door.sampled.pods() if pod not in (door.pod, door.guest))
    probe.check_renamed(door.ask("stream", third, door.member()))
    _members_are_let_in(door)


def _authority(sampled: Sampled) -> ca.Authority:
    """What signs for a cluster, read as an administrator."""
    return secrets.from_secret(kube.get(f"secret/{sampled.name}-ca", sampled.namespace))


# -- rotation --------------------------------------------------------------------------


def rotation_under_load(door: Door, run: Run) -> None:
    """A new authority is published, signs, and is alone; nobody notices anything."""
    sampled = door.sampled
    first = _authority(sampled).current.certificate
    began, restarts = time.time(), _restarts(sampled)
    with MetricWatch(run, sampled) as watch:
        sampled.kubectl("annotate", "sqlitecluster", sampled.name, "--overwrite", f"{ROTATE}=lane-{began:.0f}")
        kube.wait_for(
            "the new authority signs alone",
            lambda: _alone(sampled, first),
            limit_s=ROTATION_LIMIT_S,
            step_s=3.0,
        )
        new = _authority(sampled).current.certificate
        kube.wait_for(
            "every pod has a certificate of it and trusts it alone",
            lambda: all(_trusts_only(sampled, pod, new) for pod in sampled.pods()),
            limit_s=ROTATION_LIMIT_S,
            step_s=3.0,
        )
        time.sleep(LIFETIME_S)  # whatever was signed by the old one has ended
    took = time.time() - began
    times = [ack.at for ack in sampled.acks() if ack.at > began]
    silence = ledger.longest_silence(times)[0]
    run.say(f"{len(times)} rows in {took:.0f} s, longest silence {silence * 1000:.0f} ms; {watch.summary()}")
    assert silence <= SILENCE_MAX_S, f"no row was acknowledged for {silence:.1f} s"
    assert {ack.pod for ack in sampled.acks() if ack.at > began} == {door.pod}, "the primary changed"
    assert _restarts(sampled) == restarts, "a container was started again"
    watch.check(certificates=int(took / LIFETIME_S), lag_max_s=LAG_MAX_S)
    sampled.wait_ready()


def _alone(sampled: Sampled, first: bytes) -> bool:
    now = _authority(sampled)
    return now.current.certificate != first and now.upcoming is None and not now.previous


def _trusts_only(sampled: Sampled, pod: str, authority: bytes) -> bool:
    """Whether the bundle that kubelet brought to a pod has this authority and no other one."""
    script = f"cat {nodeconfig.IDENTITY_DIR}/ca.crt"
    done = sampled.kubectl("exec", pod, "-c", "sqlite-sidecar", "--", "sh", "-c", script)
    return ca.split(done.encode()) == ca.split(authority)


def _restarts(sampled: Sampled) -> dict[str, int]:
    return {
        f"{pod['metadata']['name']}/{one['name']}": int(one["restartCount"])
        for pod in sampled.pod_objects()
        for one in [*pod["status"].get("initContainerStatuses", []), *pod["status"]["containerStatuses"]]
    }


# --------------------------------------------------------------------------------------

CASES = {
    "a-peer-of-another-cluster": a_peer_of_another_cluster,
    "a-peer-whose-certificate-is-expired": a_peer_whose_certificate_is_expired,
    "a-peer-without-a-certificate": a_peer_without_a_certificate,
    "a-peer-that-speaks-plain-http": a_peer_that_speaks_plain_http,
    "a-peer-with-another-pods-certificate": a_peer_with_another_pods_certificate,
    "rotation-under-load": rotation_under_load,
}


@contextmanager
def scene(run: Run) -> Iterator[Door]:
    """Two clusters in one namespace; the second only lends its certificate."""
    tls = {"certificateLifetime": f"{LIFETIME_S}s", "caLifetime": f"{CA_LIFETIME_S}s"}
    with kube.deployed(), kube.namespace("trust") as namespace:
        sampled = Sampled(run, namespace, tls=tls)
        other = Sampled(run, namespace, "other", instances=1, rate=1)
        other.apply()
        sampled.start()
        other.wait_ready()
        yield Door(run, sampled, other)
        lost, twice = sampled.check_rows(sampled.acks())
        assert not lost and not twice, f"{len(lost)} rows are lost, {len(twice)} doubled: {lost[:3]}"


def main() -> int:
    """Entry of ``python -m lanes.kube_trust``."""
    return scene_main("kube_trust", "cases", CASES, scene)


if __name__ == "__main__":
    sys.exit(main())
