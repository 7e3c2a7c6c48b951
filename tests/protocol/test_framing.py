"""Lines out of a byte stream: where the bytes were cut never matters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeth_protocol.connection import Connection, Event, Role
from teeth_protocol.errors import RemoteProtocolError
from teeth_protocol.framing import LineBuffer

HANDSHAKE = b'{"version":"v1","id":"a1","method":"handshake","params":{"id":"n"}}\n'
CONVERSATION = [
    HANDSHAKE,
    b"\n",
    b'{"version":"v1","id":"a2","method":"log","params":{"event":"\xc3\xa4 \\n [{"}}\r\n',
    b"  \t\n",
    b'{"version":"v1","id":"a3","method":"ping","params":{}}\n',
    b'{"version":"v1","id":"nobody","result":{}}\n',
    b'{"version":"v1","id":"a4","method":"task_status"}\n',
]


def lines_of(buffer: LineBuffer, limit: int = 1 << 20) -> list[bytes]:
    found = []
    while (line := buffer.next_line(limit)) is not None:
        found.append(line)
    return found


@given(st.lists(st.binary(max_size=30).filter(lambda b: b"\n" not in b)), st.data())
def test_every_cut_gives_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)))))
    buffer, found = LineBuffer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        buffer.feed(stream[start:end])
        found += lines_of(buffer)
    assert found == [line.rstrip(b"\r") for line in lines if line.strip()]
    assert len(buffer) == 0


def conversation(pieces: list[bytes]) -> tuple[list[Event], bytes, int]:
    connection = Connection(Role.ENDPOINT, 0.0)
    events: list[Event] = []
    for piece in pieces:
        news = connection.receive_data(piece, 0.0)
        events += news
        for event in news:
            if getattr(event, "method", "") == "handshake":
                events += connection.send_result("a1", {})
    return events, connection.data_to_send(), connection.ignored


def test_every_split_of_every_line_gives_the_same_events() -> None:
    whole = conversation(CONVERSATION)
    assert [getattr(event, "method", type(event).__name__) for event in whole[0]] == [
        "handshake", "Ready", "log", "task_status",
    ]  # fmt: skip
    assert whole[2] == 1
    for index, line in enumerate(CONVERSATION):
        for cut in range(1, len(line)):
            pieces = [*CONVERSATION[:index], line[:cut], line[cut:], *CONVERSATION[index + 1 :]]
            assert conversation(pieces) == whole
    assert conversation([bytes([byte]) for byte in b"".join(CONVERSATION)]) == whole


def test_what_follows_the_handshake_may_come_with_its_answer() -> None:
    connection = Connection(Role.AGENT, 0.0)
    connection.send_command("handshake", {}, 0.0)
    long = (
        b'{"version":"v1","id":"e1","method":"standbye.run_image","params":{"x":"' + b"x" * 100_000 + b'"}}\n'
    )
    events = connection.receive_data(b'{"version":"v1","id":"a1","result":{}}\n' + long, 0.0)
    assert [type(event).__name__ for event in events] == ["Ready", "Answered", "CommandReceived"]


@pytest.mark.parametrize("ended", [b"", b"\n", b"\nmore"])
def test_a_line_over_the_limit_is_refused_ended_or_not(ended: bytes) -> None:
    buffer = LineBuffer()
    buffer.feed(b"x" * 11 + ended)
    with pytest.raises(RemoteProtocolError, match="longer than 10"):
        buffer.next_line(10)


def test_a_line_at_the_limit_passes() -> None:
    buffer = LineBuffer()
    buffer.feed(b"x" * 10 + b"\n" + b"y" * 10)
    assert lines_of(buffer, 10) == [b"x" * 10]
    buffer.feed(b"\n")
    assert lines_of(buffer, 10) == [b"y" * 10]
