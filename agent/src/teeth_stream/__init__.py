"""One protocol connection over one byte stream, shared by agent and endpoint."""

from teeth_stream.peer import Handler, Peer, Reader, RemoteError, Transport, Writer

__all__ = ["Handler", "Peer", "Reader", "RemoteError", "Transport", "Writer"]
