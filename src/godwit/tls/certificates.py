"""Making and reading X.509 certificates, as QEMU and GnuTLS take them.

Keys are on the curve P-256. QEMU wants `keyEncipherment` among the uses of a key even where, as on a curve, nothing is
ever enciphered with it (qcrypto_tls_creds_check_cert_key_usage() in crypto/tlscredsx509.c).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from godwit.core.trust import BACKDATED, is_numeric, verified_name
from godwit.errors import TlsError
from godwit.model import CertificateFacts

if TYPE_CHECKING:
    from collections.abc import Sequence

_USES: Final = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and its key, None where that is gone."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey | None

    @property
    def certificate_pem(self) -> str:
        """The certificate as text."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        """The key as text. Raises TlsError where there is none."""
        return self.own_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    @property
    def pem(self) -> str:
        """Both in one text, so that they are written together."""
        return self.certificate_pem + self.key_pem

    @property
    def own_key(self) -> ec.EllipticCurvePrivateKey:
        """The key. Raises TlsError where there is none."""
        if self.key is None:
            message = f"there is no key to the certificate of {self.facts.subject}"
            raise TlsError(message)
        return self.key

    @property
    def facts(self) -> CertificateFacts:
        """What it says."""
        return CertificateFacts(
            subject=common_name_of(self.certificate),
            addresses=addresses_of(self.certificate),
            valid_from=self.certificate.not_valid_before_utc.timestamp(),
            valid_until=self.certificate.not_valid_after_utc.timestamp(),
            fingerprint=self.certificate.fingerprint(hashes.SHA256()).hex(":"),
        )


def make_authority(name: str, now: float, life: float) -> Certified:
    """Return a new authority of that name, for so many seconds."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _begun(name, key, now, life).issuer_name(_named(name))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_uses("key_cert_sign", "crl_sign"), critical=True)
    return Certified(builder.sign(key, hashes.SHA256()), key)


def issue(
    authority: Certified, name: str, purpose: x509.ObjectIdentifier, addresses: Sequence[str], now: float, life: float
) -> Certified:
    """Return a certificate for one end, for so many seconds and never for longer than its authority holds."""
    key = ec.generate_private_key(ec.SECP256R1())
    life = min(life, authority.facts.valid_until - now)
    builder = _begun(name, key, now, life).issuer_name(authority.certificate.subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_uses("digital_signature", "key_encipherment"), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.own_key.public_key())
    builder = builder.add_extension(issuer, critical=False)
    if addresses:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(_general, addresses)), critical=False)
    return Certified(builder.sign(authority.own_key, hashes.SHA256()), key)


def read(text: str, where: str) -> Certified:
    """Read a certificate, and its key if that is there, from PEM. Raises TlsError naming `where` for anything else."""
    remedy = "put back what was there, or godwit tls rotate makes another"
    try:
        found = x509.load_pem_x509_certificate(text.encode())
        keyed = "PRIVATE KEY" in text
        private = serialization.load_pem_private_key(text.encode(), password=None) if keyed else None
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        message = f"what lies in {where} is no certificate with its key: {error}"
        raise TlsError(message, remedy=remedy) from error
    if private is None:
        return Certified(found, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != found.public_key():
        message = f"the key in {where} is not that of its certificate"
        raise TlsError(message, remedy=remedy)
    return Certified(found, private)


def common_name_of(certificate: x509.Certificate) -> str:
    """Return the name of whom a certificate is."""
    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def addresses_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return the addresses and names that a server's certificate holds for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    numeric = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return (*numeric, *names.get_values_for_type(x509.DNSName))


def plain_address(address: str) -> str:
    """Return an address as a certificate holds it: without brackets and zone, an IP address in its shortest form."""
    name = verified_name(address)
    return str(ipaddress.ip_address(name)) if is_numeric(name) else name.lower()


def _general(address: str) -> x509.GeneralName:
    name = plain_address(address)
    try:
        return x509.IPAddress(ipaddress.ip_address(name)) if is_numeric(name) else x509.DNSName(name)
    except ValueError as error:
        message = f"no certificate can be made out for {name!r}: {error}"
        raise TlsError(message, remedy="register the host with an IP address: --migration-address") from error


def _begun(name: str, key: ec.EllipticCurvePrivateKey, now: float, life: float) -> x509.CertificateBuilder:
    begin = datetime.fromtimestamp(now, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_named(name))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - timedelta(seconds=BACKDATED))
        .not_valid_after(begin + timedelta(seconds=life))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _uses(*wanted: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{use: use in wanted for use in _USES})
