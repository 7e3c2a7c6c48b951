"""Signed manifests, verified by the real openssl, and those that are not signed as they should be."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from teeth_agent.errors import AgentError, ToolError
from teeth_agent.image import trust
from teeth_agent.tools import openssl
from teeth_image.manifest import Contents, ImageManifest, signed_bytes

PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))


def unsigned(**changes):
    fields = {
        "name": "débian",
        "kind": "disk",
        "format": "raw",
        "compression": "none",
        "architecture": "any",
        "size": 5 << 20,
        "digest": "sha256:" + "a" * 64,
        "chunks": ("b" * 64, "c" * 64),
    }
    return ImageManifest.of(Contents(**{**fields, **changes}))


def signed(private=PRIVATE, **changes):
    made = unsigned(**changes)
    return made.signed(
        key=private.public_key().public_bytes_raw(), signature=private.sign(signed_bytes(made))
    )


KEY = signed().key_digest


def refused(manifest, key=KEY):
    with pytest.raises(AgentError) as caught:
        trust.check(manifest, key=key)
    return caught.value


def test_what_the_key_signed_is_taken():
    trust.check(signed(), key=KEY)
    trust.check(ImageManifest.parse(signed().dumps()), key=KEY)


def test_a_large_manifest(tmp_path):
    count = 1 << 15
    trust.check(signed(size=count << 22, chunks=("b" * 64,) * count), key=KEY, work=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_key_everything_is_taken():
    trust.check(None, key=None)
    trust.check(unsigned(), key=None)
    trust.check(replace(signed(), signature=bytes(64)), key=None)


def test_what_is_not_signed():
    assert refused(None).code == "image_unsigned"
    assert refused(unsigned()).code == "image_unsigned"


def test_what_another_key_signed():
    error = refused(signed(OTHER))
    assert error.code == "image_signature"
    assert KEY in str(error)
    assert signed(OTHER).key_digest in str(error)


@pytest.mark.parametrize(
    "changed",
    [
        replace(signed(), name="other"),
        replace(signed(), digest="sha256:" + "d" * 64),
        replace(signed(), chunks=("b" * 64, "d" * 64)),
        replace(signed(), signature=bytes(64)),
        replace(signed(), signature=bytes([signed().signature[0] ^ 1]) + signed().signature[1:]),
        replace(signed(OTHER), key=signed().key),
    ],
)
def test_what_was_changed_after_it_was_signed(changed):
    error = refused(changed)
    assert (error.code, str(error)) == (
        "image_signature",
        "the signature of the image's manifest is not right",
    )


def test_a_key_that_is_no_point_of_the_curve():
    manifest = replace(signed(), key=b"\xff" * 32)
    assert refused(manifest, key=manifest.key_digest).code in ("image_signature", "tool_failed")


def test_an_openssl_that_cannot_tell_is_no_yes(tmp_path, monkeypatch):
    tool = tmp_path / "openssl"
    for script in ("exit 0", "echo Signature Verified Successfully; exit 2", "exit 1"):
        tool.write_text(f"#!/bin/sh\n{script}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        with pytest.raises(ToolError):
            openssl.verify_ed25519(bytes(32), bytes(64), b"message", work=tmp_path)
