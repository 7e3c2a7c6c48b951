"""An endpoint to come home to, for the tests of the session."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from fakes.living_agent import TOKEN
from fakes.tls_endpoint import Authority, TlsEndpoint, make_authority, tls_endpoint


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca") / "one")


@pytest.fixture(scope="session")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("ca") / "two")


@pytest.fixture
async def endpoint(authority: Authority) -> AsyncIterator[TlsEndpoint]:
    async with tls_endpoint(authority) as running:
        yield running


@pytest.fixture
def spooled(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    caplog.set_level(logging.INFO)
    yield caplog
    assert TOKEN not in caplog.text
