"""Lines out of a byte stream, bounded in length."""

from __future__ import annotations

from teeth_protocol.errors import RemoteProtocolError


class LineBuffer:
    """Collects bytes until a line is whole. Blank lines are skipped; ``ended`` counts them too."""

    def __init__(self) -> None:
        self.ended = 0
        self._buffer = bytearray()
        self._searched = 0  # bytes known to hold no newline: a line fed byte by byte must not cost its square

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_line(self, limit: int) -> bytes | None:
        """The next whole line without its newline, None when there is none yet.

        Raises RemoteProtocolError when a line, whole or not, is longer than ``limit`` bytes.
        """
        while True:
            end = self._buffer.find(b"\n", self._searched)
            length = len(self._buffer) if end < 0 else end
            if length > limit:
                raise RemoteProtocolError(f"a line is longer than {limit} bytes")
            if end < 0:
                self._searched = length
                return None
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            self._searched = 0
            self.ended += 1
            if line.strip():
                return line
