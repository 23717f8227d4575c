"""Certificates as values: what one says, when it is renewed, who signed it; keys and signing requests.

No I/O; and the only module of a node (with the operator's) that knows ``cryptography``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sqlitecluster.errors import IdentityError

RENEW_AT: Final = 2 / 7
"""Fraction of a certificate's life after which a new one is asked for: day 2 of 7."""
SCHEME: Final = "sqlitecluster"


@dataclass(frozen=True, slots=True)
class Held:
    """A certificate with its key, as it is used."""

    certificate: Path
    """File with the chain, and with the key unless that has a file of its own."""
    key: Path | None
    pem: bytes
    """What the files held: key and chain."""
    begin_s: float
    """Seconds since the epoch."""
    end_s: float
    pod: tuple[str, str, str] | None
    """(namespace, cluster, pod) of its URI."""

    def renew_s(self, lifetime_s: float) -> float:
        """When to ask for the next one. A certificate says less than it lives (it begins in the past),
        and may have been given a shorter life than was asked for."""
        return self.end_s - min(lifetime_s, self.end_s - self.begin_s) * (1 - RENEW_AT)


def read_held(pem: bytes, certificate: Path, key_file: Path | None = None) -> Held:
    """What a text of key and chain holds, and the files that it is, or will be, in.

    Raises:
        IdentityError: no certificate, no key, or they do not belong together.
    """
    try:
        leaf = x509.load_pem_x509_certificates(pem)[0]
        key = serialization.load_pem_private_key(pem, None)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
        raise IdentityError(f"no usable certificate and key: {error}") from error
    if leaf.public_key() != key.public_key():
        raise IdentityError("the certificate is not of this key")
    pods = [pod for uri in names.get_values_for_type(x509.UniformResourceIdentifier) if (pod := pod_of_uri(uri))]
    begin, end = leaf.not_valid_before_utc.timestamp(), leaf.not_valid_after_utc.timestamp()
    return Held(certificate, key_file, pem, begin, end, pods[0] if len(pods) == 1 else None)


def is_issued_by(held: Held, bundle: bytes) -> bool:
    """Whether an authority of the bundle signed the certificate."""
    leaf = x509.load_pem_x509_certificates(held.pem)[0]
    try:
        authorities = x509.load_pem_x509_certificates(bundle)
    except ValueError:
        return False
    return any(_signed(leaf, authority) for authority in authorities)


def _signed(leaf: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def pod_of_uri(uri: str) -> tuple[str, str, str] | None:
    """(namespace, cluster, pod) of ``sqlitecluster://namespace/cluster/pod``."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return None
    path = parts.path.split("/")
    if parts.scheme != SCHEME or not parts.netloc or len(path) != 3 or parts.query or parts.fragment:
        return None
    _, cluster, pod = path
    return (parts.netloc, cluster, pod) if cluster and pod else None


def pod_of_peer(certificate: Mapping[str, Any]) -> tuple[str, str, str] | None:
    """(namespace, cluster, pod) of a verified peer, from what ``getpeercert`` gives; None unless it is exactly one."""
    names = certificate.get("subjectAltName", ())
    pods = {pod for kind, value in names if kind == "URI" and (pod := pod_of_uri(value))}
    return pods.pop() if len(pods) == 1 else None


def make_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS #8."""
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)


def make_request(key: ec.EllipticCurvePrivateKey, name: str) -> str:
    """A signing request for the key; the names that count are the signer's to choose."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:64])])
    request = x509.CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()
