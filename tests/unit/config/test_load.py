"""Reading a node's configuration: what is accepted, and what a mistake is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sqlitecluster.config.codec import config_from_json, config_to_json
from sqlitecluster.config.load import load, parse
from sqlitecluster.config.model import NodeConfig
from sqlitecluster.errors import ConfigError

BASE = Path("/etc/sqlitecluster")
MINIMAL = {"name": "n1", "dataDir": "/data", "mountDir": "/mnt/databases"}


def parsed(**more: Any) -> NodeConfig:
    return parse({**MINIMAL, **more}, base=BASE)


def message(document: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(document, base=BASE)
    return caught.value.message


def test_three_keys_are_enough() -> None:
    config = parsed()

    assert (config.name, config.data_dir, config.mount_dir) == ("n1", Path("/data"), Path("/mnt/databases"))
    assert config.role == "primary"
    assert config.runtime_dir is not None and config.runtime_dir.parent == Path("/dev/shm")


def test_two_data_directories_get_two_runtime_directories() -> None:
    assert parsed().runtime_dir != parsed(dataDir="/other").runtime_dir


@pytest.mark.parametrize(
    ("value", "seconds"), [(5, 5.0), (0.5, 0.5), ("250ms", 0.25), ("20s", 20.0), ("10m", 600.0), ("2 h", 7200.0)]
)
def test_times_have_units(value: object, seconds: float) -> None:
    assert parsed(parkS=value).park_s == seconds


@pytest.mark.parametrize(("value", "size"), [(5, 5), ("64Mi", 64 << 20), ("4Gi", 4 << 30), ("1.5K", 1500)])
def test_sizes_have_units(value: object, size: int) -> None:
    assert parsed(reserveBytes=value).reserve_bytes == size


def test_relative_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("name: n1\ndataDir: data\nmountDir: mnt\n")

    config = load(file)

    assert (config.data_dir, config.mount_dir) == (tmp_path / "data", tmp_path / "mnt")


def test_a_bare_off_is_the_word_and_not_the_truth_value(tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("name: n1\ndataDir: data\nmountDir: mnt\nverify: Off\n")

    assert load(file).verify == "Off"


@pytest.mark.parametrize(
    ("key", "meant"),
    [("replicaWrite", "replicaWrites"), ("data_dir", "dataDir"), ("loglevel", "logLevel"), ("nmae", "name")],
)
def test_an_unknown_key_names_the_nearest_known_one(key: str, meant: str) -> None:
    assert message({**MINIMAL, key: "x"}) == f"unknown key {key}; did you mean {meant}?"


def test_an_unknown_key_of_a_section_is_named_with_the_section() -> None:
    assert message({**MINIMAL, "listen": {"peer": "x"}}) == "unknown key listen.peer; did you mean listen.peers?"


def test_a_key_like_no_other_gets_the_list_of_all() -> None:
    assert "known are listen.peers, listen.metrics, listen.api" in message({**MINIMAL, "listen": {"qqq": 1}})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", ""),
        ("name", "a b"),
        ("name", 5),
        ("dataDir", None),
        ("dataDir", ""),
        ("role", "boss"),
        ("resend", "maybe"),
        ("parkS", "soon"),
        ("parkS", -1),
        ("parkS", 0),
        ("parkS", True),
        ("reserveBytes", "64 parsecs"),
        ("listen", "127.0.0.1:20202"),
        ("primaryUrl", "host:20202"),
        ("primaryUrl", "http://host:99999999"),
        ("verify", True),
        ("logLevel", "loud"),
    ],
)
def test_an_illegal_value_is_refused_with_its_key(key: str, value: object) -> None:
    assert key in message({**MINIMAL, key: value})


@pytest.mark.parametrize("address", ["20202", "host:", ":20202", "host:0", "host:65536", "host:port"])
def test_an_illegal_address_is_refused(address: str) -> None:
    assert "listen.api" in message({**MINIMAL, "listen": {"api": address}})


@pytest.mark.parametrize("address", ["", "127.0.0.1:1", "[::]:20202", "node.example:65535"])
def test_a_legal_address_is_taken(address: str) -> None:
    assert parsed(listen={"api": address}).listen.api == address


@pytest.mark.parametrize(
    ("data", "mount"), [("/d", "/d"), ("/d", "/d/mnt"), ("/m/data", "/m"), ("/d/../m", "/m"), ("data", "./data")]
)
def test_data_and_mount_may_not_contain_one_another(data: str, mount: str) -> None:
    text = message({**MINIMAL, "dataDir": data, "mountDir": mount})

    assert "dataDir" in text and "mountDir" in text


def test_a_replica_needs_its_primary() -> None:
    assert message({**MINIMAL, "role": "replica"}).startswith("primaryUrl is missing")


def test_two_listeners_cannot_share_an_address() -> None:
    assert "used twice" in message({**MINIMAL, "listen": {"api": "a:1", "peers": "a:1"}})


@pytest.mark.parametrize("missing", ["name", "dataDir", "mountDir"])
def test_a_required_key_is_asked_for(missing: str) -> None:
    document = {key: value for key, value in MINIMAL.items() if key != missing}

    assert message(document) == f"{missing} is missing"


@pytest.mark.parametrize("document", [None, [], "text", 5])
def test_a_document_without_keys_is_refused(document: object) -> None:
    assert "key: value" in message(document)


@pytest.mark.parametrize(
    "content", [b"name: [n1\n", b"\xff\xfe\x00", b"a: &a [*a]\n: :", b"!!python/object:os.system {}"]
)
def test_a_file_that_is_no_yaml_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)

    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load(file)


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    file = tmp_path / "huge.yaml"
    file.write_bytes(b"#" * (2 << 20))

    with pytest.raises(ConfigError, match="larger than"):
        load(file)


def test_a_missing_file_is_reported_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml: No such file"):
        load(tmp_path / "missing.yaml")


def test_json_carries_every_value() -> None:
    config = parsed(listen={"api": ""}, retention={"ageS": "1h"}, verify="EveryTransaction", runtimeDir="/run/x")

    assert config_from_json(config_to_json(config)) == config


def test_json_of_an_older_version_gets_the_defaults() -> None:
    config = config_from_json('{"name": "n1", "data_dir": "/d", "mount_dir": "/m"}')

    assert config == NodeConfig(name="n1", data_dir=Path("/d"), mount_dir=Path("/m"))


ELECTION = {"cluster": "notes", "namespace": "default", "podUID": "3f1c", "address": "10.0.0.7"}


def test_an_elected_node_without_an_election_is_driven_by_hand() -> None:
    assert parsed(role="elected").election is None


def test_the_election_has_defaults_for_all_but_who_one_is() -> None:
    election = parsed(role="elected", election={**ELECTION, "lease": {"marginMs": "2s"}}).election

    assert election is not None
    assert (election.cluster, election.pod_uid, election.lease.duration_s) == ("notes", "3f1c", 12.0)
    assert election.lease.margin_ms == 2000


@pytest.mark.parametrize("missing", sorted(ELECTION))
def test_who_one_is_must_be_said(missing: str) -> None:
    election = {key: value for key, value in ELECTION.items() if key != missing}

    assert message({**MINIMAL, "role": "elected", "election": election}) == f"election.{missing} is missing"


def test_only_an_elected_node_takes_part_in_an_election() -> None:
    assert "role: elected" in message({**MINIMAL, "election": ELECTION})


@pytest.mark.parametrize("lease", [{"durationS": 8}, {"renewDeadlineS": 12}, {"retryPeriodS": 6}, {"retryPeriodS": 0}])
def test_lease_times_that_leave_no_room_are_refused(lease: dict[str, object]) -> None:
    document = {**MINIMAL, "role": "elected", "election": {**ELECTION, "lease": lease}}

    assert message(document).startswith("election.lease.")


def test_variables_of_the_environment_are_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POD_NAME", "notes-1")
    monkeypatch.setenv("POD_NAMESPACE", "prod")

    config = parsed(
        name="${POD_NAME}",
        role="elected",
        election={**ELECTION, "peerDomain": "notes-pods.${POD_NAMESPACE}.svc", "credentialsDir": "/x/${POD_NAME}"},
    )

    assert config.name == "notes-1"
    assert config.election is not None and config.election.peer_domain == "notes-pods.prod.svc"
    assert config.election.credentials_dir == Path("/x/notes-1")


def test_an_unset_variable_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)

    assert message({**MINIMAL, "name": "${NOT_SET}"}) == "name: the environment has no variable NOT_SET"


def test_json_carries_optional_sections() -> None:
    config = parsed(role="elected", election=ELECTION, identity={}, runAs={"uid": 1000})

    assert config.run_as is not None and (config.run_as.uid, config.run_as.gid) == (1000, 65532)
    assert config_from_json(config_to_json(config)) == config
