"""Identities of the local cluster: who may pass for whom."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from localcluster import pki
from localcluster.layout import Layout
from localcluster.pki import Identities


@pytest.fixture(scope="module")
def who(tmp_path_factory: pytest.TempPathFactory) -> Identities:
    return pki.make(Layout(tmp_path_factory.mktemp("state")))


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def groups(path: Path) -> set[str]:
    return {str(a.value) for a in read(path).subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)}


def names(path: Path) -> set[str]:
    extension = read(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in extension}


def test_everyone_is_signed_by_the_authority_that_is_asked(who: Identities) -> None:
    ca, front = read(who.ca.cert), read(who.front_ca.cert)
    for pair in [who.api, *who.users.values(), *who.node_clients.values(), *who.node_servers.values()]:
        read(pair.cert).verify_directly_issued_by(ca)
    read(who.front_client.cert).verify_directly_issued_by(front)
    with pytest.raises(ValueError):
        read(who.front_client.cert).verify_directly_issued_by(ca)


def test_a_node_is_what_the_api_calls_a_node(who: Identities) -> None:
    cert = who.node_clients["node2"].cert

    assert read(cert).subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == "system:node:node2"
    assert groups(cert) == {"system:nodes"}


def test_servers_answer_for_the_addresses_that_are_dialled(who: Identities) -> None:
    assert {"127.0.0.1", "10.88.0.2", "10.90.0.1", "kubernetes.default.svc"} <= names(who.api.cert)
    assert names(who.node_servers["node3"].cert) == {"node3", "10.88.0.13"}


def test_only_masters_are_masters(who: Identities) -> None:
    masters = {name for name, pair in who.users.items() if "system:masters" in groups(pair.cert)}

    assert masters == {"admin", "kubelet-client", "provisioner"}


def test_keys_are_nobody_elses_to_read(who: Identities) -> None:
    for pair in [who.ca, who.tokens, *who.users.values()]:
        assert stat.S_IMODE(pair.key.stat().st_mode) == 0o600


def test_a_kubeconfig_has_everything_inside(who: Identities) -> None:
    parsed = json.loads(pki.kubeconfig("https://127.0.0.1:1", who.ca.cert, who.users["admin"]))

    assert base64.b64decode(parsed["clusters"][0]["cluster"]["certificate-authority-data"]) == who.ca.cert.read_bytes()
    assert parsed["contexts"][0]["context"] == {"cluster": parsed["clusters"][0]["name"], "user": "admin"}
