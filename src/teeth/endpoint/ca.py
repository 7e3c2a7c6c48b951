"""The endpoint's own certificate authority: made once, pinned by every ramdisk that is to dial in."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from teeth.errors import TeethError, UsageError
from teeth.files import write_durably

_CA_DAYS = 3652  # ten years: a ramdisk that pins it may lie on a shelf
_SERVER_DAYS = 397  # the longest that strict TLS stacks accept
_RENEW_DAYS = 30
_BACKDATE = dt.timedelta(days=1)  # a machine's clock may be a little behind ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A CA with its key. ``digest`` is what a kernel command line carries to pin it."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def digest(self) -> str:
        return ca_digest(self.certificate)

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def ca_digest(certificate: x509.Certificate) -> str:
    """``sha256:`` and the hex digest of the certificate's DER."""
    der = certificate.public_bytes(serialization.Encoding.DER)
    return "sha256:" + hashlib.sha256(der).hexdigest()


def load_or_create(folder: Path) -> Authority:
    """The CA in ``folder`` (``ca.pem``: key and certificate in one file, 0600), made there if there is none.

    Raises TeethError when the file is there but does not hold a usable CA: a new one would lock out every
    ramdisk that pins the old, so that is for a person to decide.
    """
    path = folder / "ca.pem"
    if not path.exists():
        authority = _create()
        write_durably(path, _private_pem(authority.key) + authority.pem.encode(), mode=0o600)
    else:
        authority = _load(path)
    write_durably(folder / "ca.crt", authority.pem.encode(), mode=0o644)
    return authority


def ensure_server_certificate(
    authority: Authority, folder: Path, names: Sequence[str], *, now: dt.datetime | None = None
) -> Path:
    """The file (0600) with the server's key and its chain, leaf then CA, valid for ``names``.

    ``names`` are DNS names and IP addresses. The certificate is made anew when the names or the CA changed
    or when fewer than 30 days are left.
    """
    moment = now or _now()
    path = folder / "server.pem"
    wanted = tuple(_general_name(name) for name in dict.fromkeys(names))
    if not wanted:
        raise UsageError("the endpoint needs at least one name or address for its certificate")
    if not path.exists() or not _still_good(path.read_bytes(), authority, wanted, moment):
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = issue_leaf(
            authority, key.public_key(), common="teeth endpoint", names=wanted,
            usage=ExtendedKeyUsageOID.SERVER_AUTH, lifetime=dt.timedelta(days=_SERVER_DAYS), now=moment,
        )  # fmt: skip
        chain = leaf.public_bytes(serialization.Encoding.PEM) + authority.pem.encode()
        write_durably(path, _private_pem(key) + chain, mode=0o600)
    return path


def server_context(chain: Path, *, clients: Authority | None = None) -> ssl.SSLContext:
    """TLS 1.3 and nothing older, with the chain that ensure_server_certificate made.

    ``clients``: ask for a client certificate of this CA. A peer may come without one; one that is of another
    CA, expired or for another purpose fails the TLS handshake.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(chain)
    # No resumption: a ticket would carry a client certificate past its end.
    context.num_tickets = 0
    if clients is not None:
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.load_verify_locations(cadata=clients.pem)
    return context


def _create() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    # The serial part keeps two endpoints' CAs apart where a person lists them.
    name = _name(f"teeth endpoint CA {x509.random_serial_number() & 0xFFFFFFFF:08x}")
    public = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    builder = (
        _builder(name, name, key.public_key(), dt.timedelta(days=_CA_DAYS), _now())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(certificates=True), critical=True)
        .add_extension(public, critical=False)
    )
    return Authority(key=key, certificate=builder.sign(key, hashes.SHA256()))


def _load(path: Path) -> Authority:
    hint = "put the backup back; deleting it makes a new CA, which no existing ramdisk will trust"
    try:
        data = path.read_bytes()
        key = serialization.load_pem_private_key(data, password=None)
        certificate = x509.load_pem_x509_certificate(data)
    except (OSError, ValueError, TypeError) as error:
        raise TeethError(f"the endpoint's CA in {path} cannot be read", hint=hint) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise TeethError(f"key and certificate in {path} do not belong together", hint=hint)
    if certificate.not_valid_after_utc <= _now():
        raise TeethError(f"the endpoint's CA in {path} has expired", hint=hint)
    return Authority(key=key, certificate=certificate)


def _still_good(
    data: bytes, authority: Authority, wanted: tuple[x509.GeneralName, ...], now: dt.datetime
) -> bool:
    try:
        leaf = x509.load_pem_x509_certificates(data)[0]
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        leaf.verify_directly_issued_by(authority.certificate)
        serialization.load_pem_private_key(data, password=None)
    except Exception:  # whatever is wrong with it, a new one is the answer
        return False
    left = leaf.not_valid_after_utc - now
    return set(names) == set(wanted) and left > dt.timedelta(days=_RENEW_DAYS)


def issue_leaf(
    authority: Authority,
    key: ec.EllipticCurvePublicKey,
    *,
    common: str,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    lifetime: dt.timedelta,
    now: dt.datetime,
) -> x509.Certificate:
    """A certificate that signs nothing, for one purpose (``usage``), good from a day before ``now``."""
    issuer_id = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return (
        _builder(_name(common), authority.certificate.subject, key, lifetime, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        # Python 3.13 verifies strictly by default and refuses a leaf without it.
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    lifetime: dt.timedelta,
    now: dt.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + lifetime)
    )


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates, key_cert_sign=certificates, crl_sign=certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError as error:
        raise UsageError(f"{name!r} is neither an IP address nor a DNS name") from error


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
