"""Whom the agent believes, without a session around it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.tls_endpoint import Authority, make_authority
from teeth_agent.session.trust import TrustError, fetch_authority, pinned_context


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("trust") / "ca")


@pytest.fixture
def port(authority: Authority) -> Iterator[int]:
    """A server that shakes hands once per connection and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    plain, _ = server.accept()
                except OSError:
                    return
                with plain:
                    try:
                        with authority.context().wrap_socket(plain, server_side=True) as tls:
                            tls.recv(1)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def test_the_authority_is_found_by_its_digest(authority: Authority, port: int) -> None:
    der = fetch_authority("127.0.0.1", port, authority.digest)
    assert ssl.DER_cert_to_PEM_cert(der).split() == authority.ca_file.read_text().split()
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        pinned_context(der).wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        assert tls.version() == "TLSv1.3"


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "sha256:", ""])
def test_another_digest_finds_nothing(port: int, digest: str) -> None:
    with pytest.raises(TrustError, match="shows another certificate authority") as error:
        fetch_authority("127.0.0.1", port, digest)
    assert error.value.code == "wrong_ca"


def test_the_pinned_context_trusts_nothing_else(authority: Authority, port: int, tmp_path: Path) -> None:
    other = make_authority(tmp_path / "other")
    context = pinned_context(other.ca_file)
    assert (context.minimum_version, context.verify_mode) == (ssl.TLSVersion.TLSv1_3, ssl.CERT_REQUIRED)
    assert context.check_hostname
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    with (
        socket.create_connection(("127.0.0.1", port)) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.2"),
    ):
        pinned_context(authority.ca_file).wrap_socket(plain, server_hostname="127.0.0.2")


def test_a_server_that_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(TimeoutError):
        fetch_authority("127.0.0.1", server.getsockname()[1], "sha256:x", timeout=0.05)
