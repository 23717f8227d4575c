"""Certificate authorities as values: made, rotated with overlap, and signing for pods.

Pure: time and key material come in as arguments or from ``cryptography``; no files, no
network. ``secrets`` keeps an authority in a Secret, ``server`` signs with it.

Rules:
    1. A rotation has three steps, so that no pod meets a certificate whose authority it does
       not know yet: the next authority is published; after ``publish`` it signs; the
       previous one stays trusted for ``overlap`` and is dropped then.
    2. Only the public key of a request is used. Names and uses are ours, whatever it asks for.
    3. Keys are P-256; a request may also bring P-384.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MAX_CSR_BYTES: Final = 8192
BACKDATE: Final = dt.timedelta(minutes=1)
"""Certificates are valid from a minute ago, short ones from a tenth of their life: clocks of nodes differ a little."""
CA_LIFETIME: Final = dt.timedelta(days=3650)
ROTATE_AFTER: Final = CA_LIFETIME * 2 / 3
PUBLISH: Final = dt.timedelta(minutes=10)
"""How long a new authority is published before it signs: kubelets bring ConfigMaps to pods within about two minutes."""
_CURVES: Final = ("secp256r1", "secp384r1")


class BadRequest(ValueError):
    """A signing request that is not accepted; the text says why."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """One authority: its certificate and its key, as PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """What signs for a cluster, and everything that its pods trust."""

    current: KeyPair
    activated: dt.datetime
    """When ``current`` began to sign."""
    upcoming: KeyPair | None = None
    """Published, not signing yet."""
    published: dt.datetime | None = None
    """Since when ``upcoming`` is published."""
    previous: tuple[bytes, ...] = ()
    """Certificates that may still have signed what is in use."""
    rotation: str = ""
    """Id of the last rotation that was asked for by hand."""

    def bundle(self) -> bytes:
        """All that is trusted now, the signing authority first."""
        upcoming = [self.upcoming.certificate] if self.upcoming else []
        return b"".join((self.current.certificate, *upcoming, *self.previous))


@dataclass(frozen=True, slots=True)
class Names:
    """The subject alternative names of one certificate."""

    dns: tuple[str, ...]
    uri: str = ""


def pod_names(namespace: str, cluster: str, pod: str) -> Names:
    """The names of one pod of a cluster."""
    host = f"{pod}.{cluster}-pods.{namespace}.svc"
    return Names((host, f"{host}.cluster.local"), f"sqlitecluster://{namespace}/{cluster}/{pod}")


def make_authority(name: str, now: dt.datetime, lifetime: dt.timedelta = CA_LIFETIME) -> Authority:
    """A new authority that signs at once: there is nobody yet who could not know it."""
    return Authority(make_pair(name, now, lifetime), activated=now)


def make_pair(name: str, now: dt.datetime, lifetime: dt.timedelta = CA_LIFETIME) -> KeyPair:
    """A self-signed P-256 authority. Each has a subject of its own, so that old and new are told apart."""
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name[:40]} {serial:x}"[:64])])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), serial)
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
    )
    return KeyPair(_pem(builder.sign(key, hashes.SHA256())), private_pem(key))


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A key as unencrypted PKCS #8 PEM."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def read_request(pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a signing request.

    Raises:
        BadRequest: too large, no request, a key of another kind, or not signed by that key.
    """
    if len(pem) > MAX_CSR_BYTES:
        raise BadRequest(f"the request has {len(pem)} bytes, at most {MAX_CSR_BYTES} are accepted")
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
            raise BadRequest("the key must be an elliptic curve key, P-256 or P-384")
        if not request.is_signature_valid:
            raise BadRequest("the request is not signed by its own key")
    except (ValueError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise error if isinstance(error, BadRequest) else BadRequest(f"no PEM signing request: {error}") from error
    return key


def sign(
    authority: Authority, key: ec.EllipticCurvePublicKey, names: Names, now: dt.datetime, lifetime: dt.timedelta
) -> tuple[bytes, dt.datetime]:
    """A certificate for client and server, and its end, which is never after its authority's."""
    issuer = x509.load_pem_x509_certificate(authority.current.certificate)
    issuer_key = serialization.load_pem_private_key(authority.current.key, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    end = min(now + lifetime, issuer.not_valid_after_utc).replace(microsecond=0)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names.dns[0].split(".")[0][:64])])
    general: list[x509.GeneralName] = [x509.DNSName(name) for name in names.dns]
    if names.uri:
        general.append(x509.UniformResourceIdentifier(names.uri))
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    builder = (
        x509.CertificateBuilder(issuer.subject, subject, key, x509.random_serial_number())
        .not_valid_before(now - min(BACKDATE, lifetime / 10))
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(general), critical=False)
        .add_extension(issuer_id, critical=False)
    )
    return _pem(builder.sign(issuer_key, hashes.SHA256())), end


# -- rotation --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rotation:
    """The times of a rotation."""

    overlap: dt.timedelta
    """The longest lifetime of what an authority signs: so long it stays trusted after its last signature."""
    publish: dt.timedelta = PUBLISH
    rotate_after: dt.timedelta = ROTATE_AFTER
    lifetime: dt.timedelta = CA_LIFETIME


def advance(authority: Authority, name: str, asked: str, times: Rotation, now: dt.datetime) -> Authority:
    """The authority as it has to be now; the same value when nothing is due.

    ``asked`` is the id of a rotation asked for by hand; each id causes one rotation. One that
    comes while another is under way waits for its end.
    """
    if authority.upcoming is not None and authority.published is not None:
        if now - authority.published < times.publish:
            return authority
        return _activate(authority, authority.upcoming, now)
    if authority.previous and now - authority.activated >= times.overlap:
        return replace(authority, previous=())
    if _due(authority, asked, times, now):
        upcoming = make_pair(name, now, times.lifetime)
        return replace(authority, upcoming=upcoming, published=now, rotation=asked or authority.rotation)
    return authority


def next_look(authority: Authority, times: Rotation, now: dt.datetime) -> dt.timedelta:
    """How long nothing is due unless somebody asks."""
    if authority.published is not None:
        due = authority.published + times.publish
    elif authority.previous:
        due = authority.activated + times.overlap
    else:
        due = min(authority.activated + times.rotate_after, _near_end(authority, times))
    return max(due - now, dt.timedelta(seconds=1))


def _activate(authority: Authority, upcoming: KeyPair, now: dt.datetime) -> Authority:
    previous = (authority.current.certificate, *authority.previous)
    return replace(
        authority, current=upcoming, activated=now, upcoming=None, published=None, previous=valid(previous, now)
    )


def _due(authority: Authority, asked: str, times: Rotation, now: dt.datetime) -> bool:
    by_hand = bool(asked) and asked != authority.rotation
    old = now - authority.activated >= times.rotate_after
    return by_hand or old or now >= _near_end(authority, times)


def _near_end(authority: Authority, times: Rotation) -> dt.datetime:
    """The last moment to begin: what the authority signs until it is replaced must not outlive it."""
    end = x509.load_pem_x509_certificate(authority.current.certificate).not_valid_after_utc
    return end - times.publish - times.overlap


def valid(certificates: Sequence[bytes], now: dt.datetime) -> tuple[bytes, ...]:
    """Those of the certificates that have not ended, in their order, each once."""
    kept: dict[bytes, None] = {}
    for pem in certificates:
        if x509.load_pem_x509_certificate(pem).not_valid_after_utc > now:
            kept[pem] = None
    return tuple(kept)


def split(bundle: bytes) -> tuple[bytes, ...]:
    """The certificates of a bundle, each as PEM; what is none is left out."""
    try:
        found = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return ()
    return tuple(_pem(certificate) for certificate in found)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
