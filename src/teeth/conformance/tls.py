"""TLS for both doors: whom we believe, who we are, and an authority for agents that come to enrol."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import socket
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from teeth.errors import UsageError

Address = tuple[str, int]
_TIMEOUT = 10.0
_NODE, _BOOT = "urn:teeth:node:", "urn:teeth:boot:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """Files of a certificate and its key, and whom the certificate names."""

    certificate: Path
    key: Path
    node: str = ""
    boot: str = ""


def client_context(address: Address, *, ca: Path | None, digest: str | None) -> ssl.SSLContext:
    """TLS 1.3 that believes one authority, from a file or by the "sha256:HEX" of its DER.

    Raises UsageError when the authority cannot be read, or is not in the endpoint's chain.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        if ca is not None:
            context.load_verify_locations(cafile=str(ca))
        else:
            context.load_verify_locations(cadata=_authority_in_chain(address, digest or ""))
    except ssl.SSLError as error:
        raise UsageError(f"{ca or 'the authority'}: not a certificate: {error.reason or error}") from None
    except OSError as error:
        raise UsageError(f"{ca}: {error.strerror or error}") from None
    return context


def load_credential(certificate: Path, key: Path) -> Credential:
    """A client certificate with the node and boot that it names. Raises UsageError."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{certificate}: not a certificate: {error}") from None
    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Credential(certificate=certificate, key=key)
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return Credential(certificate=certificate, key=key, node=_named(uris, _NODE), boot=_named(uris, _BOOT))


def present(context: ssl.SSLContext, credential: Credential) -> None:
    """Show ``credential`` to every peer of ``context``. Raises UsageError."""
    try:
        context.load_cert_chain(credential.certificate, credential.key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"{credential.certificate} and {credential.key} are no certificate and its key: "
            f"{getattr(error, 'reason', None) or error}"
        ) from None


def new_request(folder: Path) -> tuple[str, Path]:
    """A new P-256 key in ``folder`` (mode 0600), and a signing request for it: (PEM, key file)."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = folder / "key.pem"
    _write_key(path, key)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "teeth conformance kit")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode(), path


class Authority:
    """A throwaway authority: it makes the listener's certificate and signs what agents ask for."""

    def __init__(self, host: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="teeth-conformance-")
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "teeth conformance kit")])
        self._own = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(True, None), days=2)
        self._host = host
        self.pem = self._own.public_bytes(Encoding.PEM).decode()
        self.digest = f"sha256:{hashlib.sha256(self._own.public_bytes(Encoding.DER)).hexdigest()}"

    def context(self, server: Credential | None) -> ssl.SSLContext:
        """For the listener: with ``server``'s certificate or one of ours; asks agents for one of ours."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=self.pem)
        present(context, server or self._server())
        return context

    def answer(self, params: dict[str, Any]) -> dict[str, Any]:
        """The result of an agent's ``enroll``. Raises ValueError when its request cannot be read."""
        now = datetime.datetime.now(datetime.UTC)
        if params.get("only") == "time":
            return {"time": now.timestamp()}
        request = x509.load_pem_x509_csr(str(params.get("csr", "")).encode())
        names = x509.SubjectAlternativeName(
            x509.UniformResourceIdentifier(f"{prefix}{params.get(member, '')}")
            for prefix, member in ((_NODE, "id"), (_BOOT, "boot_id"))
        )
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "teeth agent")])
        signed = self._sign(name, request.public_key(), names, days=1)
        return {
            "certificate": signed.public_bytes(Encoding.PEM).decode(),
            "not_after": signed.not_valid_after_utc.timestamp(),
            "time": now.timestamp(),
        }

    def close(self) -> None:
        self._folder.cleanup()

    def _server(self) -> Credential:
        folder = Path(self._folder.name)
        key = ec.generate_private_key(ec.SECP256R1())
        hosts: list[x509.GeneralName] = [x509.DNSName("localhost")]
        try:
            hosts.append(x509.IPAddress(ipaddress.ip_address(self._host)))
        except ValueError:
            hosts.append(x509.DNSName(self._host))
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._host)])
        leaf = self._sign(name, key.public_key(), x509.SubjectAlternativeName(hosts), days=2)
        (folder / "chain.pem").write_text(leaf.public_bytes(Encoding.PEM).decode() + self.pem)
        _write_key(folder / "key.pem", key)
        return Credential(certificate=folder / "chain.pem", key=folder / "key.pem")

    def _sign(
        self, name: x509.Name, key: Any, extension: x509.ExtensionType, *, days: int
    ) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        authority = isinstance(extension, x509.BasicConstraints)
        usage = x509.KeyUsage(
            digital_signature=not authority, key_cert_sign=authority, crl_sign=authority,
            content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(extension, critical=authority)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )


def _authority_in_chain(address: Address, digest: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with (
            socket.create_connection(address, timeout=_TIMEOUT) as plain,
            context.wrap_socket(plain) as tls,
        ):
            inner: Any = tls._sslobj  # type: ignore[attr-defined]
            chain = [ssl.PEM_cert_to_DER_cert(one.public_bytes()) for one in inner.get_unverified_chain()]
    except OSError as error:
        raise UsageError(f"no TLS with {show_address(address)}: {reason(error)}") from None
    for certificate in chain:
        if f"sha256:{hashlib.sha256(certificate).hexdigest()}" == digest.lower():
            return certificate
    raise UsageError(f"{show_address(address)} shows no certificate with the digest {digest}")


def show_address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reason(error: OSError) -> str:
    """Why a connection failed, in the fewest words that say it."""
    return str(
        getattr(error, "verify_message", "") or getattr(error, "reason", "") or error.strerror or error
    )


def _named(uris: list[str], prefix: str) -> str:
    return next((uri.removeprefix(prefix) for uri in uris if uri.startswith(prefix)), "")


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
