"""Bad input: a node that cannot start says why, and names from every door."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from support import images, ports, processes
from support.clients import error_of, fill, run_sql
from support.lane import Run, registry
from support.node import Node

CASES, case = registry()
SHAPE = re.compile(r"^sqlitecluster: .+ \[[A-Z][A-Za-z]+\]$", re.MULTILINE)


@contextlib.contextmanager
def lone_node(run: Run, label: str, **options: object) -> Iterator[Node]:
    """A node that is not started yet; whatever is left of it is cleared."""
    folder, base = run.new_folder(label), ports.take_base()
    node = Node(folder, 1, base, **options)
    node.folder.mkdir(parents=True)
    node.mount.mkdir()
    try:
        yield node
    finally:
        node.stop()
        processes.clear(folder)
        ports.give_back(base)


def refused(command: list[str], code: str, *words: str) -> str:
    """Run a command that must be refused with a code and a message that holds the words."""
    done = subprocess.run(command, env=processes.environment(), capture_output=True, text=True, timeout=120)
    text = done.stderr.strip()
    assert done.returncode not in (0, None) and done.returncode > 0, f"exit code {done.returncode}: {text}"
    assert SHAPE.search(text), f"not `sqlitecluster: message [Code]`: {text!r}"
    assert f"[{code}]" in text, f"expected [{code}]: {text!r}"
    assert "Traceback" not in text, text
    for word in words:
        assert word in text, f"the message does not say {word!r}: {text!r}"
    return text


def start_refused(
    node: Node, code: str, *words: str, settings: dict[str, object] | None = None, wrap: tuple[str, ...] = ()
) -> None:
    """Starting the node with these settings must be refused, and must leave nothing mounted."""
    node.config_file.write_text(json.dumps(settings or node.settings()))
    refused([*wrap, *processes.cli("node", "--config", str(node.config_file))], code, *words)
    assert not processes.mounts_under(node.folder), "something stayed mounted"


@case
def unknown_configuration_key(run: Run) -> None:
    with lone_node(run, "key") as node:
        start_refused(
            node, "InvalidConfig", "replicaWrite", "replicaWrites", settings={**node.settings(), "replicaWrite": "Busy"}
        )
        start_refused(
            node, "InvalidConfig", "listen.peer", settings={**node.settings(), "listen": {"peer": "127.0.0.1:1"}}
        )


@case
def illegal_configuration_values(run: Run) -> None:
    with lone_node(run, "values") as node:
        good = node.settings()
        wrong: list[tuple[str, object]] = [
            ("role", "boss"),
            ("parkS", "soon"),
            ("parkS", -1),
            ("replicaWrites", "Sometimes"),
            ("name", ""),
            ("name", 5),
            ("dataDir", None),
            ("resend", "maybe"),
            ("listen", "127.0.0.1:20202"),
            ("retention", {"ageS": "old"}),
        ]
        for key, value in wrong:
            start_refused(node, "InvalidConfig", key, settings={**good, key: value})
        start_refused(node, "InvalidConfig", "primaryUrl", settings={**good, "role": "replica"})
        start_refused(node, "InvalidConfig", "dataDir", settings={k: v for k, v in good.items() if k != "dataDir"})


@case
def no_configuration_file(run: Run) -> None:
    folder = run.new_folder("nofile")
    refused(processes.cli("node", "--config", str(folder / "missing.yaml")), "InvalidConfig", "missing.yaml")
    (folder / "bad.yaml").write_text("name: [n1\n")
    refused(processes.cli("node", "--config", str(folder / "bad.yaml")), "InvalidConfig", "bad.yaml")
    (folder / "list.yaml").write_text("- name\n")
    refused(processes.cli("node", "--config", str(folder / "list.yaml")), "InvalidConfig")


@case
def port_in_use(run: Run) -> None:
    for kind in ("peers", "metrics", "api"):
        with lone_node(run, "port") as node, socket.create_server(("127.0.0.1", node.port(kind))):
            start_refused(node, "AddressInUse", str(node.port(kind)), "in use")


@case
def data_directory_and_mount_point_overlap(run: Run) -> None:
    with lone_node(run, "nested") as node:
        good = node.settings()
        same = {**good, "dataDir": str(node.mount)}
        data_in_mount = {**good, "dataDir": str(node.mount / "data")}
        mount_in_data = {**good, "mountDir": str(node.data / "mnt")}
        for settings in (same, data_in_mount, mount_in_data):
            node.config_file.write_text(json.dumps(settings))
            command = processes.cli("node", "--config", str(node.config_file))
            done = subprocess.run(command, env=processes.environment(), capture_output=True, text=True, timeout=120)
            assert done.returncode > 0 and SHAPE.search(done.stderr), done
            assert "dataDir" in done.stderr and "mountDir" in done.stderr, done.stderr


@case
def mount_point_not_empty(run: Run) -> None:
    with lone_node(run, "full") as node:
        (node.mount / "precious.txt").write_text("mine")
        start_refused(node, "BadFolder", str(node.mount), "empty")
        assert (node.mount / "precious.txt").read_text() == "mine"


@case
def no_dev_fuse(run: Run) -> None:
    with lone_node(run, "nofuse") as node:
        hide = 'mount -t tmpfs none /dev && exec "$@"'
        start_refused(node, "NoFuseDevice", "/dev/fuse", wrap=("unshare", "-m", "sh", "-c", hide, "sh"))


@case
def no_permission(run: Run) -> None:
    with lone_node(run, "noright") as node:
        node.data.mkdir()
        for folder in (run.folder, *(p for p in node.folder.parents if run.folder in p.parents), node.folder):
            folder.chmod(0o755)
        node.data.chmod(0o700)
        wrap = ("env", "-u", "TMPDIR", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        start_refused(node, "NotPermitted", str(node.data), wrap=wrap)
        node.data.chmod(0o777)
        node.mount.chmod(0o777)
        node.config_file.write_text(json.dumps(node.settings()))
        text = refused([*wrap, *processes.cli("node", "--config", str(node.config_file))], "NotPermitted")
        assert "mount" in text.lower() or "CAP_SYS_ADMIN" in text, text


@case
def commands_without_a_node(run: Run) -> None:
    url = f"http://127.0.0.1:{ports.take_base() + 4}"
    refused(processes.cli("status", "--url", url), "Unavailable", url.removeprefix("http://"))
    refused(processes.cli("export", "--url", url, "a.db", str(run.folder / "x")), "Unavailable")


@case
def wrong_arguments(run: Run) -> None:
    cluster = run.shared()
    api = cluster.primary.api
    target = str(run.new_folder("args") / "x")
    fill(cluster.primary.mount / "there.db", 1)
    cluster.wait_synced("there.db")
    refused(processes.cli("export", "--url", api, "missing.db", target), "NoSuchDatabase", "missing.db")
    assert not Path(target).exists(), "a failed export left a file"
    refused(processes.cli("wait", "--url", api, "there.db", "--position", "xyz"), "InvalidFormat", "xyz")
    text = run.folder / "text.db"
    text.write_text("no database at all, but long enough to have a header of one hundred bytes " * 5)
    refused(processes.cli("import", "--url", api, "x.db", str(text)), "NotADatabase")
    refused(processes.cli("ltx", "verify", str(text)), "CorruptLTX", "damaged")
    for arguments in ((), ("no-such-command",), ("status", "--no-such-option")):
        done = subprocess.run(
            processes.cli(*arguments), env=processes.environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and "Traceback" not in done.stderr, done


BAD_NAMES = (".hidden.db", "a\tb.db", "ä" * 50 + ".db", "x" * 128, "a/" * 8 + "b.db", "new\nline.db")


@case
def a_bad_name_from_a_program(run: Run) -> None:
    cluster = run.shared()
    for name in (".hidden.db", "a\tb.db", "ä" * 50 + ".db", "x" * 128, "new\nline.db"):
        message = error_of(lambda n=name: run_sql(cluster.primary.mount / n, "CREATE TABLE t(x)"))  # type: ignore[misc]
        assert message in ("disk I/O error", "unable to open database file"), f"{name}: {message}"
    assert "BadName" in cluster.primary.log.read_text(), "the log does not say what is wrong with the name"
    fill(cluster.primary.mount / "good.db", 1)
    images.check_same(cluster, "good.db")


@case
def a_bad_name_from_the_command_line(run: Run) -> None:
    cluster = run.shared()
    source = run.new_folder("name") / "s.db"
    fill(source, 1, journal="DELETE")
    for name in (*BAD_NAMES, "../up.db", "/abs.db", "a//b.db", ""):
        refused(processes.cli("import", "--url", cluster.primary.api, name, str(source)), "BadName")
        refused(processes.cli("export", "--url", cluster.primary.api, name, str(source) + ".out"), "BadName")
        refused(
            processes.cli("wait", "--url", cluster.primary.api, name, "--position", f"{1:016x}/{1 << 63:016x}"),
            "BadName",
        )


@case
def a_bad_name_over_http(run: Run) -> None:
    cluster = run.shared()
    for node in cluster.nodes:
        for path in (
            "/export?name=..%2Fup.db",
            "/export?name=",
            "/export",
            "/wait?name=a%00b.db&position=1%2F1",
            "/export?name=a%09b",
            "/export?name=%E7.db",
        ):
            try:
                urllib.request.urlopen(node.api + path, timeout=30)
            except urllib.error.HTTPError as error:
                answer = json.loads(error.read())
                assert error.code == 400 and answer["code"] == "BadName" and answer["message"], (
                    f"{path}: {error.code} {answer}"
                )
            else:
                raise AssertionError(f"{path} was answered")


ENDLESS = b"POST /stream HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + b"{" * 5000


@case
def nonsense_on_every_port(run: Run) -> None:
    cluster = run.shared()
    rng = run.rng("nonsense")
    for node in cluster.nodes:
        for kind in ("peers", "metrics", "api"):
            for payload in (b"\0" * 4096, rng.randbytes(5000), b"GET / HTTP/9.9\r\n\r\n", ENDLESS):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", node.port(kind)), 10) as s:
                    s.sendall(payload)
                    s.settimeout(1)
                    s.recv(4096)
            for path in ("/nothing", "/import", "/stream", "/%00", "/" + "x" * 9000):
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{node.port(kind)}{path}", timeout=10).read(100)
    logs = cluster.primary.log.read_text() + cluster.replica.log.read_text()
    assert "Traceback" not in logs, "malformed requests leave tracebacks in the log"
    fill(cluster.primary.mount / "alive.db", 2)
    images.check_same(cluster, "alive.db")
    assert os.path.ismount(cluster.replica.mount)
