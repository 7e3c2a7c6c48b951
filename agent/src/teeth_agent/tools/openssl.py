"""openssl(1): a key and a certificate request, where no cryptography library is at hand."""

from __future__ import annotations

import re

from teeth_agent.errors import ToolError
from teeth_agent.run import run

# A P-256 key takes milliseconds; loading the program on an emulated machine takes most of a second.
_TIMEOUT = 60.0
_REQUEST = re.compile(
    r"-----BEGIN CERTIFICATE REQUEST-----\n(?:[A-Za-z0-9+/=]{1,76}\n)+-----END CERTIFICATE REQUEST-----\n"
)
# One with a P-256 key has some 450 letters; it has to fit into an unauthenticated line of 4 KiB.
_MAX_REQUEST = 2048


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
