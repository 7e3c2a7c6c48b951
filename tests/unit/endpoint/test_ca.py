from __future__ import annotations

import datetime as dt
import hashlib
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from teeth.endpoint import ca
from teeth.errors import TeethError, UsageError


def leaf(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates(path.read_bytes())[0]


def test_the_authority_is_made_once_and_kept(tmp_path: Path) -> None:
    first, second = ca.load_or_create(tmp_path), ca.load_or_create(tmp_path)
    assert first.digest == second.digest
    assert (tmp_path / "ca.pem").stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in (tmp_path / "ca.crt").read_text()
    assert list(tmp_path.glob(".*")) == []


def test_the_digest_is_over_the_der(tmp_path: Path) -> None:
    authority = ca.load_or_create(tmp_path)
    der = ssl.PEM_cert_to_DER_cert((tmp_path / "ca.crt").read_text())
    assert authority.digest == "sha256:" + hashlib.sha256(der).hexdigest()


def test_the_authority_may_sign_servers_and_nothing_below_it(tmp_path: Path) -> None:
    certificate = ca.load_or_create(tmp_path).certificate
    basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    years = (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)).days / 365
    assert 9.9 < years < 10.1


@pytest.mark.parametrize("content", [b"", b"rubbish", b"-----BEGIN PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_authority_is_never_replaced_silently(tmp_path: Path, content: bytes) -> None:
    ca.load_or_create(tmp_path)
    (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(TeethError, match="cannot be read"):
        ca.load_or_create(tmp_path)
    assert (tmp_path / "ca.pem").read_bytes() == content


def test_a_key_of_another_authority_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    key = ca.load_or_create(tmp_path / "a").key
    mixed = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "b" / "ca.pem"
    path.write_bytes(mixed + ca.load_or_create(tmp_path / "b").pem.encode())
    with pytest.raises(TeethError, match="do not belong together"):
        ca.load_or_create(tmp_path / "b")


def test_the_server_certificate_names_what_was_asked(tmp_path: Path) -> None:
    authority = ca.load_or_create(tmp_path)
    path = ca.ensure_server_certificate(authority, tmp_path, ["boot.example", "127.0.0.1", "::1"])
    names = leaf(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["boot.example"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    assert path.stat().st_mode & 0o777 == 0o600
    chain = x509.load_pem_x509_certificates(path.read_bytes())
    assert ca.ca_digest(chain[1]) == authority.digest


def test_the_server_certificate_is_kept_while_it_fits_and_renewed_when_not(tmp_path: Path) -> None:
    authority = ca.load_or_create(tmp_path)

    def serial(*names: str) -> int:
        return leaf(ca.ensure_server_certificate(authority, tmp_path, names)).serial_number

    first = serial("a.example", "127.0.0.1")
    assert serial("127.0.0.1", "a.example", "a.example") == first
    second = serial("b.example")
    assert second != first
    (tmp_path / "server.pem").write_text("rubbish")
    assert serial("b.example") != second


def test_an_expiring_server_certificate_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = ca.load_or_create(tmp_path)
    old = leaf(ca.ensure_server_certificate(authority, tmp_path, ["a.example"]))
    later = old.not_valid_after_utc - dt.timedelta(days=29)
    monkeypatch.setattr(ca, "_now", lambda: later)
    new = leaf(ca.ensure_server_certificate(authority, tmp_path, ["a.example"]))
    assert new.not_valid_after_utc > old.not_valid_after_utc


def test_a_certificate_of_another_authority_is_renewed(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    path = ca.ensure_server_certificate(ca.load_or_create(tmp_path / "other"), tmp_path, ["a.example"])
    authority = ca.load_or_create(tmp_path)
    ca.ensure_server_certificate(authority, tmp_path, ["a.example"])
    leaf(path).verify_directly_issued_by(authority.certificate)


def test_no_name_and_no_real_name_are_refused(tmp_path: Path) -> None:
    authority = ca.load_or_create(tmp_path)
    with pytest.raises(UsageError, match="at least one name"):
        ca.ensure_server_certificate(authority, tmp_path, [])
    with pytest.raises(UsageError, match="neither an IP address nor a DNS name"):
        ca.ensure_server_certificate(authority, tmp_path, ["bücher.example"])
