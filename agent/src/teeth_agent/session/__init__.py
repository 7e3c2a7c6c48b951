"""The way home: trust, dialling, the handshake, tasks and what is said about them."""
