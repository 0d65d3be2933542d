"""A certificate authority for one clinic: it signs the broker's certificate and, where chosen, those of its clients.

Certificates follow RFC 5280 as strict verifiers read it (key usage, key identifiers, critical constraints): Python
3.13 and OpenSSL 3 refuse anything less.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

CA_DAYS: Final = 3650
LEAF_DAYS: Final = 825
"""A bit over two years: long enough not to stop a clinic by surprise, short enough that renewing is not forgotten."""
SLACK: Final = timedelta(days=1)
"""Valid from a day ago: a gateway whose clock is a little behind must not refuse a new certificate."""


class Issued(NamedTuple):
    """A key and its certificate, both PEM."""

    key: bytes
    certificate: bytes
    serial: int
    expires: datetime


class Revoked(NamedTuple):
    serial: int
    at: datetime


class Authority:
    """The authority's key and certificate in memory. All moments are aware datetimes."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def create(cls, site: str, now: datetime) -> "Authority":
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"vitals authority of {site}")
        builder = (
            _dated(x509.CertificateBuilder(), now, now + timedelta(days=CA_DAYS))
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        return cls(key, builder.sign(key, hashes.SHA256()))

    @classmethod
    def load(cls, key: bytes, certificate: bytes) -> "Authority":
        """From PEM. Raises ValueError when it is none, or the two do not belong together."""
        loaded = serialization.load_pem_private_key(key, None)
        signed = x509.load_pem_x509_certificate(certificate)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != signed.public_key():
            raise ValueError("the key does not belong to the certificate")
        return cls(loaded, signed)

    @property
    def certificate(self) -> bytes:
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key(self) -> bytes:
        return _pem(self._key)

    @property
    def expires(self) -> datetime:
        return self._certificate.not_valid_after_utc

    def server(self, hosts: Sequence[str], now: datetime, days: int = LEAF_DAYS) -> Issued:
        """The broker's certificate, for every host name and address a client may call it by."""
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        return self._issue(hosts[0], ExtendedKeyUsageOID.SERVER_AUTH, names, now, days)

    def client(self, name: str, now: datetime, days: int = LEAF_DAYS) -> Issued:
        """A client's certificate; the broker takes the common name as its user name."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, None, now, days)

    def revocation_list(self, revoked: Sequence[Revoked], now: datetime) -> bytes:
        """PEM. Valid as long as the authority: an expired list would lock every client out."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(now - SLACK)
            .next_update(self.expires)
        )
        for serial, at in revoked:
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _issue(
        self,
        name: str,
        purpose: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None,
        now: datetime,
        days: int,
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        serial = x509.random_serial_number()
        expires = min(now + timedelta(days=days), self.expires).replace(microsecond=0)
        builder = (
            _dated(x509.CertificateBuilder(), now, expires)
            .subject_name(_name(name))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(serial)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return Issued(_pem(key), certificate.public_bytes(serialization.Encoding.PEM), serial, expires)


def _dated(builder: x509.CertificateBuilder, now: datetime, until: datetime) -> x509.CertificateBuilder:
    start = min(now - SLACK, until - SLACK)
    return builder.not_valid_before(start.astimezone(UTC)).not_valid_after(until.astimezone(UTC))


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


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


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
