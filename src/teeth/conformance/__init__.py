"""The conformance kit: golden transcripts played against anybody's endpoint or agent.

It reads the protocol on its own (raw sockets, its own lines, the standard library's json) and shares no code
with ``teeth_protocol``: a fault in that must not hide itself.
"""
