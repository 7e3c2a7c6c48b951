"""What the real ends say in the tests of the wire is held against the published schemas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from fakes.wiretap import Wiretap
from teeth_protocol.connection import Connection, Role

# How long a machine takes to make up an example is its own affair.
settings.register_profile("wire", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("wire")

# Module -> whose words are judged there. In the others one end, or both, are the test's own.
_JUDGED = {
    "test_endpoint_with_agent": {Role.AGENT, Role.ENDPOINT},
    "test_endpoint_tasks": {Role.ENDPOINT},
    "test_endpoint_sessions": {Role.ENDPOINT},
    "test_endpoint_enrol": {Role.ENDPOINT},
}


@pytest.fixture(autouse=True)
def wiretap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wiretap]:
    """Everything that is said in this process. A test may ask for it and say what it invents."""
    listening = Wiretap(roles=_JUDGED.get(request.module.__name__.rpartition(".")[2], set()))
    begin = Connection.__init__

    def beginning(connection: Connection, *arguments: Any, **options: Any) -> None:
        begin(connection, *arguments, **options)
        listening.listen(connection)

    if listening.roles:
        monkeypatch.setattr(Connection, "__init__", beginning)
    yield listening
    assert listening.wrong == []
