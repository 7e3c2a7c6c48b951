"""One protocol connection over one asyncio stream, shared by agent and endpoint."""
