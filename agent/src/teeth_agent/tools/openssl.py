"""openssl(1): keys, certificate requests, signatures, where no cryptography library is at hand."""

from __future__ import annotations

import base64
import re
import tempfile
from pathlib import Path

from teeth_agent.errors import ToolError
from teeth_agent.run import run

# A P-256 key takes milliseconds; loading the program on an emulated machine takes most of a second.
_TIMEOUT = 60.0
_REQUEST = re.compile(
    r"-----BEGIN CERTIFICATE REQUEST-----\n(?:[A-Za-z0-9+/=]{1,76}\n)+-----END CERTIFICATE REQUEST-----\n"
)
# One with a P-256 key has some 450 letters; it has to fit into an unauthenticated line of 4 KiB.
_MAX_REQUEST = 2048
# RFC 8410: what stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo.
_ED25519 = bytes.fromhex("302a300506032b6570032100")
_NOT_VERIFIED = 1


def generate_key_argv(path: str) -> list[str]:
    """A P-256 key as unencrypted PKCS#8, written with mode 0600 (openssl-genpkey(1))."""
    return ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path]


def request_argv(key: str, subject: str) -> list[str]:
    """A PKCS#10 request for the key in the file ``key``, on standard output.

    ``subject`` is "/TYPE=VALUE". No configuration is read: a distribution's asks questions and adds members.
    """
    return ["openssl", "req", "-new", "-sha256", "-config", "/dev/null", "-key", key, "-subj", subject]


def parse_request(text: str) -> str:
    """The one request (PEM, with its last newline) in what openssl printed. Raises ToolError."""
    found = _REQUEST.findall(text)
    if len(found) != 1 or len(found[0]) > _MAX_REQUEST:
        raise ToolError("openssl req did not print one certificate request")
    return str(found[0])


def generate_key(path: str) -> None:
    """Make a key in the file ``path``. Raises ToolError."""
    run(generate_key_argv(path), timeout=_TIMEOUT)


def request(key: str, subject: str) -> str:
    """A certificate request (PEM). Raises ToolError."""
    return parse_request(run(request_argv(key, subject), timeout=_TIMEOUT).stdout)


def verify_argv(key: str, signature: str, message: str) -> list[str]:
    """A signature over a whole message (openssl-pkeyutl(1)); the arguments are files, the key is PEM."""
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", key]
    return [*verify, "-rawin", "-in", message, "-sigfile", signature]


def verify_ed25519(key: bytes, signature: bytes, message: bytes, *, work: Path) -> bool:
    """Whether a raw signature (RFC 8032) is the raw public key's over ``message``.

    Raises ToolError if openssl could not tell.
    """
    spki = base64.b64encode(_ED25519 + key).decode()
    pem = f"-----BEGIN PUBLIC KEY-----\n{spki}\n-----END PUBLIC KEY-----\n".encode()
    with tempfile.TemporaryDirectory(prefix="teeth-signature-", dir=work) as folder:
        files = {"key": pem, "signature": signature, "message": message}
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        done = run(verify_argv(*(f"{folder}/{name}" for name in files)), timeout=_TIMEOUT, check=False)
    if done.returncode == 0 and "Verified Successfully" in done.stdout:
        return True
    if done.returncode == _NOT_VERIFIED and "Verification Failure" in done.stdout + done.stderr:
        return False
    said = (done.stderr.strip().splitlines() or ["no output"])[-1]
    raise ToolError(f"openssl pkeyutl ended with {done.returncode}: {said[:200]}")
