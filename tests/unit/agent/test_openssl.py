"""The openssl command: what we ask it for, what we take from it, and that it really does it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from teeth_agent.errors import ToolError
from teeth_agent.tools import openssl

PEM = "-----BEGIN CERTIFICATE REQUEST-----\nMIHQMHgCAQAw\nFjE=\n-----END CERTIFICATE REQUEST-----\n"


def test_key_and_request_are_what_an_endpoint_takes(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    openssl.generate_key(str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.curve, ec.SECP256R1)
    request = x509.load_pem_x509_csr(openssl.request(str(path), "/CN=teeth agent").encode())
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert request.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "teeth agent")])


def test_a_distributions_configuration_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ramdisk has none, and one that is there may ask a person."""
    monkeypatch.setattr(
        "teeth_agent.run._ENVIRONMENT", {"OPENSSL_CONF": "/nowhere", "LC_ALL": "C", "PATH": ""}
    )
    openssl.generate_key(str(tmp_path / "key.pem"))
    openssl.request(str(tmp_path / "key.pem"), "/CN=x")


def test_what_is_no_key_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key")
    with pytest.raises(ToolError, match="openssl ended with 1") as error:
        openssl.request(str(tmp_path / "key.pem"), "/CN=x")
    assert error.value.code == "tool_failed"
    with pytest.raises(ToolError, match="openssl ended with 1"):
        openssl.generate_key(str(tmp_path / "missing" / "key.pem"))


def test_words_around_the_request_are_left_out() -> None:
    assert openssl.parse_request(f"Warning: this\n{PEM}-----\n") == PEM


@pytest.mark.parametrize(
    "text",
    [
        "",
        PEM + PEM,
        PEM.replace("REQUEST", "REQUESTS"),
        PEM.replace("MIHQ", "MI Q"),
        PEM.replace("MIHQMHgCAQAw\n", "MIHQMHgCAQAwMIHQMHgCAQAw\n" * 100),
    ],
    ids=["nothing", "two", "another thing", "not base64", "endless"],
)
def test_what_is_not_one_request_is_refused(text: str) -> None:
    with pytest.raises(ToolError, match="did not print one certificate request"):
        openssl.parse_request(text)
