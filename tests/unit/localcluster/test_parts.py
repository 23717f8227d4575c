"""The local cluster's smaller parts: images, processes, builds, what a machine lacks."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
from pathlib import Path

import pytest

from localcluster import controlplane, images, machine, orphans, pki, processes, programs
from localcluster.__main__ import build_parser
from localcluster.cluster import Cluster
from localcluster.errors import ClusterError
from localcluster.images import Image
from localcluster.layout import Layout


@pytest.fixture
def image(tmp_path: Path) -> Image:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    return Image("docker.io/local/thing", {"bin/thing": program}, links={"bin/it": "thing"}, folders=("tmp",))


def test_an_archive_is_what_an_engine_would_have_saved(image: Image, tmp_path: Path) -> None:
    reference, path = images.write(image, tmp_path / "out")
    with tarfile.open(path) as archive:
        parts = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    manifest = json.loads(parts["manifest.json"])[0]
    config = json.loads(parts[manifest["Config"]])

    assert manifest["RepoTags"] == [reference, "docker.io/local/thing:1"] == images.references(path)
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(parts["layer.tar"]).hexdigest()]
    with tarfile.open(fileobj=io.BytesIO(parts["layer.tar"])) as layer:
        assert layer.getmember("bin/thing").mode == 0o755
        assert layer.getmember("bin/it").linkname == "thing"
        assert layer.getmember("tmp").isdir()


def test_the_same_content_is_the_same_image_and_another_is_another(image: Image, tmp_path: Path) -> None:
    first, path = images.write(image, tmp_path / "one")
    again, same = images.write(image, tmp_path / "two")
    image.files["bin/thing"].write_text("#!/bin/sh\nexit 1\n")
    other, _ = images.write(image, tmp_path / "three")

    assert first == again != other
    assert path.read_bytes() == same.read_bytes()


def test_a_remembered_process_is_found_until_it_ends(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "60"])
    processes.remember(tmp_path, "sleeper", process.pid)

    assert processes.recall(tmp_path, "sleeper") == process.pid
    process.kill()
    assert processes.wait_until(lambda: processes.recall(tmp_path, "sleeper") is None, 10), "a zombie counts as gone"
    process.wait()


def test_another_process_with_the_same_number_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "other").write_text(f"{os.getpid()} 1\n")

    assert processes.recall(tmp_path, "other") is None


def test_a_started_process_outlives_the_call_and_writes_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "word.log"
    pid = processes.start(["sh", "-c", "echo word"], log=log)

    assert processes.wait_until(lambda: not processes.alive(pid), 10)
    assert processes.tail(log) == "word"


def test_only_number_one_of_a_namespace_is_a_nodes_first_process() -> None:
    assert not processes.is_first_of_namespace(os.getpid())


def test_another_source_is_another_build(tmp_path: Path) -> None:
    for name, text in (("go.mod", "module a\n"), ("go.sum", ""), ("main.go", "package main\n")):
        (tmp_path / name).write_text(text)
    first = programs.source_hash(tmp_path)
    (tmp_path / "notes.txt").write_text("not compiled")

    assert programs.source_hash(tmp_path) == first
    (tmp_path / "main.go").write_text("package main // changed\n")
    assert programs.source_hash(tmp_path) != first


def test_pins_say_what_is_built() -> None:
    pins = (programs.SOURCES / "go.mod").read_text()

    assert f"k8s.io/kubernetes v{programs.VERSION}\n" in pins
    assert f"helm.sh/helm/v4 v{programs.HELM_VERSION}\n" in pins
    assert f"gitVersion=v{programs.VERSION}" in programs.link_flags()


def test_the_api_server_is_reached_by_its_socket_from_outside(tmp_path: Path) -> None:
    layout = Layout(tmp_path)

    assert f"UNIX-LISTEN:{layout.api_socket},fork,mode=600" in controlplane.way_out(layout)
    assert f"UNIX-CONNECT:{layout.api_socket}" in controlplane.way_in(layout, 1)
    assert "TCP-LISTEN:1,bind=127.0.0.1,fork,reuseaddr,nodelay,backlog=128" in controlplane.way_in(layout, 1)


def test_controllers_do_not_compete(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    who = pki.make(layout)

    for command in (controlplane.scheduler(layout, tmp_path), controlplane.controller_manager(layout, tmp_path, who)):
        assert "--leader-elect=false" in command


def test_a_cluster_that_was_never_started_is_down(tmp_path: Path) -> None:
    said: list[str] = []
    cluster = Cluster(tmp_path / "none", say=said.append)

    assert not cluster.is_up()
    cluster.down()
    assert said == ["there is no cluster"]
    assert not (tmp_path / "none").exists()


def test_a_wrong_node_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no node 'node7'"):
        Cluster(tmp_path).freeze("node7")


def test_images_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match="no such archive: "):
        Cluster(tmp_path).load([tmp_path / "missing.tar"])


def test_a_missing_command_names_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "COMMANDS", ("surely-not-there",))

    assert machine.missing()[0] == (
        "the command surely-not-there is missing: tools/install-cluster installs it (`make cluster` does that)"
    )


def test_a_taken_port_is_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert machine.free_port(port) != port
    assert machine.free_port(port) == port


COMMAND_LINES = (
    "up", "down --all", "status", "load a.tar b.tar", "cut node1", "freeze apiserver", "poweron 2",
    "client curl -s http://x", "in node1 ps ax",
)  # fmt: skip


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_the_command_line_is_understood(line: str) -> None:
    assert build_parser().parse_args(line.split()).command == line.split()[0]


def test_a_cluster_whose_folder_is_gone_is_found_again(tmp_path: Path) -> None:
    records = tmp_path / "records"
    here, gone = Layout(tmp_path / "here"), Layout(tmp_path / "gone")
    here.run.mkdir(parents=True)
    for layout in (here, gone):
        orphans.record(layout, records)

    assert [layout.identity for layout in orphans.orphans(records)] == [gone.identity]
    for layout in (here, gone):
        orphans.forget(layout, records)
    assert not records.exists()
