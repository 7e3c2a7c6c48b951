"""One protocol connection over one asyncio stream, shared by agent and endpoint."""

from teeth_stream.peer import Handler, Peer, RemoteError

__all__ = ["Handler", "Peer", "RemoteError"]
