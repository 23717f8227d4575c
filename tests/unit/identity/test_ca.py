"""Authorities: what they sign, what they refuse to sign, and how one follows another."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from sqlitecluster.identity import certificates
from sqlitecluster_operator.identity import ca
from sqlitecluster_operator.identity.ca import Authority, BadRequest, Rotation

NOW = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
TIMES = Rotation(overlap=7 * DAY, publish=dt.timedelta(minutes=10), rotate_after=240 * DAY, lifetime=365 * DAY)


def key() -> ec.EllipticCurvePublicKey:
    return ec.generate_private_key(ec.SECP256R1()).public_key()


def names_of(pem: bytes) -> tuple[list[str], list[str]]:
    leaf = x509.load_pem_x509_certificate(pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName), names.get_values_for_type(x509.UniformResourceIdentifier)


def request(private: object, **subject: str) -> bytes:
    name = x509.Name([])
    digest = None if isinstance(private, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder(name)
    if subject:
        wish = x509.SubjectAlternativeName([x509.DNSName(text) for text in subject.values()])
        builder = builder.add_extension(wish, critical=False)
    return builder.sign(private, digest).public_bytes(serialization.Encoding.PEM)  # type: ignore[arg-type]


def test_a_pods_certificate_bears_its_names_and_is_for_both_ends() -> None:
    authority = ca.make_authority("default/notes", NOW)

    pem, end = ca.sign(authority, key(), ca.pod_names("default", "notes", "notes-1"), NOW, 7 * DAY)

    host = "notes-1.notes-pods.default.svc"
    assert names_of(pem) == ([host, f"{host}.cluster.local"], ["sqlitecluster://default/notes/notes-1"])
    leaf = x509.load_pem_x509_certificate(pem)
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.current.certificate))
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert end == leaf.not_valid_after_utc == NOW + 7 * DAY
    assert leaf.not_valid_before_utc == NOW - ca.BACKDATE


def test_nothing_outlives_its_authority() -> None:
    authority = ca.make_authority("x", NOW, lifetime=DAY)
    assert ca.sign(authority, key(), ca.pod_names("n", "c", "c-0"), NOW, 7 * DAY)[1] == NOW + DAY


def test_the_names_that_a_request_wishes_for_do_not_matter() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    wished = ca.read_request(request(private, dns="kubernetes.default.svc"))
    pem, _ = ca.sign(ca.make_authority("x", NOW), wished, ca.pod_names("n", "c", "c-0"), NOW, DAY)
    assert "kubernetes.default.svc" not in names_of(pem)[0]


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1()])
def test_keys_of_two_curves_are_accepted(curve: ec.EllipticCurve) -> None:
    assert ca.read_request(request(ec.generate_private_key(curve))).curve.name == curve.name


def _damaged() -> bytes:
    pem = request(ec.generate_private_key(ec.SECP256R1()))
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    der[-4] ^= 1
    return x509.load_der_x509_csr(bytes(der)).public_bytes(serialization.Encoding.PEM)


REFUSED = {
    "nothing": lambda: b"",
    "no PEM": lambda: b"hello",
    "a certificate": lambda: ca.make_authority("x", NOW).current.certificate,
    "broken base64": lambda: b"-----BEGIN CERTIFICATE REQUEST-----\n!!!\n-----END CERTIFICATE REQUEST-----\n",
    "an RSA key": lambda: request(rsa.generate_private_key(65537, 2048)),
    "an Ed25519 key": lambda: request(ed25519.Ed25519PrivateKey.generate()),
    "a P-521 key": lambda: request(ec.generate_private_key(ec.SECP521R1())),
    "a weak curve": lambda: request(ec.generate_private_key(ec.SECP256K1())),
    "a wrong signature": _damaged,
    "too large": lambda: request(ec.generate_private_key(ec.SECP256R1())) + b" " * ca.MAX_CSR_BYTES,
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_request_is_refused(what: str) -> None:
    with pytest.raises(BadRequest):
        ca.read_request(REFUSED[what]())


# -- rotation --------------------------------------------------------------------------


def test_a_rotation_publishes_first_signs_later_and_drops_the_old_one_last() -> None:
    old = ca.make_authority("x", NOW)
    published = ca.advance(old, "x", "r1", TIMES, NOW)
    assert published.current == old.current and published.upcoming is not None
    assert ca.split(published.bundle()) == (old.current.certificate, published.upcoming.certificate)

    assert ca.advance(published, "x", "r1", TIMES, NOW + dt.timedelta(minutes=9)) == published
    signing = ca.advance(published, "x", "r1", TIMES, NOW + dt.timedelta(minutes=10))
    assert signing.current == published.upcoming and signing.upcoming is None
    assert ca.split(signing.bundle()) == (signing.current.certificate, old.current.certificate)

    at = NOW + dt.timedelta(minutes=10)
    assert ca.advance(signing, "x", "r1", TIMES, at + 7 * DAY - dt.timedelta(seconds=1)) == signing
    alone = ca.advance(signing, "x", "r1", TIMES, at + 7 * DAY)
    assert ca.split(alone.bundle()) == (signing.current.certificate,)
    assert ca.advance(alone, "x", "r1", TIMES, at + 8 * DAY) == alone, "the same id rotated twice"


def test_every_certificate_is_trusted_by_everybody_at_every_moment_of_a_rotation() -> None:
    """Pods may be ``publish`` late with the bundle; what any authority signed must be in what they have."""
    authority = ca.make_authority("x", NOW)
    seen: list[tuple[dt.datetime, Authority]] = []
    certificates_: list[tuple[dt.datetime, dt.datetime, bytes]] = []
    at = NOW
    while at < NOW + 20 * DAY:
        authority = ca.advance(authority, "x", "r1", TIMES, at)
        seen.append((at, authority))
        certificates_.append((at, at + 7 * DAY, authority.current.certificate))
        late = [a for when, a in seen if at - when < TIMES.publish] or [authority]
        for _, end, signer in certificates_:
            if end > at:
                assert all(signer in ca.split(a.bundle()) for a in late)
        at += dt.timedelta(minutes=5) if at < NOW + dt.timedelta(hours=1) else dt.timedelta(hours=6)
    assert authority.rotation == "r1" and not authority.previous


@pytest.mark.parametrize(
    ("age", "asked", "due"),
    [(239 * DAY, "", False), (240 * DAY, "", True), (DAY, "now", True), (DAY, "", False), (DAY, "done", False)],
)
def test_a_rotation_begins_by_age_or_by_hand(age: dt.timedelta, asked: str, due: bool) -> None:
    authority = replace(ca.make_authority("x", NOW), rotation="done")
    assert (ca.advance(authority, "x", asked, TIMES, NOW + age).upcoming is not None) is due


def test_an_authority_is_replaced_before_it_would_shorten_certificates() -> None:
    short = replace(TIMES, rotate_after=400 * DAY)
    authority = ca.make_authority("x", NOW, lifetime=365 * DAY)
    look = ca.next_look(authority, short, NOW)
    assert ca.advance(authority, "x", "", short, NOW + look).upcoming is not None
    assert NOW + look + short.publish + short.overlap <= NOW + 365 * DAY


def test_next_look_says_when_something_is_due() -> None:
    authority = ca.make_authority("x", NOW)
    at = NOW
    for _ in range(4):
        at += ca.next_look(authority, TIMES, at)
        changed = ca.advance(authority, "x", "", TIMES, at)
        assert changed != authority
        authority = changed


# -- a pod's side ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "pod"),
    [
        ("sqlitecluster://ns/notes/notes-0", ("ns", "notes", "notes-0")),
        ("sqlitecluster://ns/notes", None),
        ("sqlitecluster://ns/notes/notes-0/x", None),
        ("sqlitecluster://ns//notes-0", None),
        ("sqlitecluster:///notes/notes-0", None),
        ("sqlitecluster://ns/notes/notes-0?x=1", None),
        ("https://ns/notes/notes-0", None),
        ("sqlitecluster://[ns/notes/notes-0", None),
        ("", None),
    ],
)
def test_the_pod_in_a_uri(uri: str, pod: tuple[str, str, str] | None) -> None:
    assert certificates.pod_of_uri(uri) == pod


@pytest.mark.parametrize(
    ("names", "pod"),
    [
        ((("URI", "sqlitecluster://n/c/c-0"), ("DNS", "x")), ("n", "c", "c-0")),
        ((("DNS", "sqlitecluster://n/c/c-0"),), None),
        ((("URI", "sqlitecluster://n/c/c-0"), ("URI", "sqlitecluster://n/c/c-1")), None),
        ((), None),
    ],
)
def test_the_pod_of_a_peer_is_exactly_one(names: object, pod: object) -> None:
    assert certificates.pod_of_peer({"subjectAltName": names}) == pod
