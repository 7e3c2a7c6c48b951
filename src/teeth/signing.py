"""Ed25519 keys that lie in a folder: made when there is none, never replaced."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from teeth.errors import TeethError
from teeth.files import write_durably


def signing_key(private: Path, public: Path, *, owner: str, hint: str) -> Ed25519PrivateKey:
    """The key in ``private``, made there if there is none; its public half is written to ``public``.

    Raises TeethError with ``hint`` when the file is there but holds no such key: a new one would leave what
    the old one signed without a key to verify it. ``owner`` names whose it is.
    """
    if private.exists():
        key = _read_key(private, owner, hint)
    else:
        key = Ed25519PrivateKey.generate()
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_durably(private, encoded, mode=0o600)
    write_durably(public, public_pem(key).encode(), mode=0o644)
    return key


def public_pem(key: Ed25519PrivateKey) -> str:
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode("ascii")
    )


def public_raw(key: Ed25519PrivateKey) -> bytes:
    """The 32 bytes of RFC 8032."""
    return key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def public_key_digest(raw: bytes) -> str:
    """How a key is named: ``sha256:HEX`` of its raw bytes."""
    return f"sha256:{hashlib.sha256(raw).hexdigest()}"


def _read_key(path: Path, owner: str, hint: str) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise TeethError(f"{owner}'s signing key in {path} cannot be read", hint=hint) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise TeethError(f"the key in {path} is not an Ed25519 key", hint=hint)
    return key


def is_signed(key: bytes, signature: bytes, data: bytes) -> bool:
    """Whether the raw Ed25519 ``key`` made ``signature`` over ``data``."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True
