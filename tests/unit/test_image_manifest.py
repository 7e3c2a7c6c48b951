"""Image manifests: read strictly, written canonically, compared with the image that they are of."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from teeth_image.errors import ImageError
from teeth_image.manifest import MAX_BYTES, Contents, ImageManifest, signed_bytes

MIB = 1 << 20
DIGEST = "sha256:" + "a" * 64
HEX = "b" * 64


def contents(**changes):
    given = {
        "name": "debian 13 — wörld",
        "kind": "disk",
        "format": "raw",
        "compression": "zstd",
        "architecture": "x86_64",
        "size": 9 * MIB,
        "digest": DIGEST,
        "raw_size": 18 * MIB,
        "raw_digest": DIGEST,
        "chunk_size": 4 * MIB,
        "chunks": (HEX,) * 3,
        "raw_chunk_size": 4 * MIB,
        "raw_chunks": (HEX, "", HEX, "", HEX),
        "frames": (2 * MIB, 20, 2 * MIB, 20, 2 * MIB),
    }
    return Contents(**{**given, **changes})


PLAIN = {"raw_chunk_size": None, "raw_chunks": None, "frames": None}


def image(**changes):
    given = {"size": 9 * MIB, "digest": DIGEST, "format": "raw", "kind": "disk", "compression": "zstd"}
    return {**given, **changes}


def refused(data):
    with pytest.raises(ImageError) as caught:
        ImageManifest.parse(data)
    assert caught.value.code == "image_manifest"
    return str(caught.value)


@pytest.mark.parametrize("changes", [{}, PLAIN, {**PLAIN, "raw_size": None, "raw_digest": None}])
def test_what_is_written_reads_back(changes):
    made = ImageManifest.of(contents(**changes))
    assert ImageManifest.parse(made.dumps()) == made
    assert made.key_digest is None


def test_a_signature_that_others_can_verify():
    """Signed by another library over another canonicalisation of what the file says."""
    private = Ed25519PrivateKey.generate()
    key = private.public_key().public_bytes_raw()
    unsigned = ImageManifest.of(contents())
    made = unsigned.signed(key=key, signature=private.sign(signed_bytes(unsigned)))
    read = ImageManifest.parse(made.dumps())
    said = json.loads(made.dumps())
    assert signed_bytes(read) == b"teeth-image-manifest/1\n" + rfc8785.dumps(said["manifest"])
    private.public_key().verify(base64.b64decode(said["signature"]), signed_bytes(read))
    assert read.key_digest == "sha256:" + hashlib.sha256(key).hexdigest()


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40),
    st.integers(1, 2**53 - 1),
)
@settings(max_examples=50, deadline=None)
def test_the_signed_bytes_are_canonical(name, raw_size):
    made = contents(name=name, raw_size=raw_size, **PLAIN)
    said = json.loads(ImageManifest.of(made).dumps())["manifest"]
    assert signed_bytes(made).partition(b"\n")[2] == rfc8785.dumps(said)


WRONG = {
    "too few chunks": ({"chunks": (HEX,)}, "1 chunks of 4194304 bytes are not 9437184 bytes"),
    "too many raw chunks": ({"raw_chunks": (HEX,) * 6, "frames": None}, "6 raw_chunks do not fit"),
    "raw chunks without a raw size": ({"raw_size": None, "frames": None}, "do not fit raw_size None"),
    "raw chunks of no size": ({"raw_chunk_size": None, "frames": None}, "belong together"),
    "frames for other chunks": ({"frames": (1, 2)}, "2 frames for 5 raw chunks"),
    "frames beyond the image": ({"frames": (4 * MIB,) * 5}, "longer than the image"),
    "frames of gzip": ({"compression": "gzip"}, "frames are of zstd"),
    "raw size of raw bytes": ({**PLAIN, "compression": "none"}, "not compressed"),
}


@pytest.mark.parametrize(("changes", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_agree_with_itself(changes, words):
    with pytest.raises(ImageError, match=words) as caught:
        ImageManifest.of(contents(**changes))
    assert caught.value.code == "image_manifest"


def set_in(path, value):
    said = json.loads(ImageManifest.of(contents()).dumps())
    *parents, last = path
    place = said
    for name in parents:
        place = place[name]
    place[last] = value
    return json.dumps(said).encode()


KEY = base64.b64encode(bytes(32)).decode()
STRICT = {
    "an unknown member": (("manifest", "expires"), 1),
    "an unknown member beside": (("mirror",), "x"),
    "another version": (("manifest", "version"), 2),
    "a number as text": (("manifest", "size"), "9437184"),
    "a null": (("manifest", "frames"), None),
    "upper case": (("manifest", "digest"), DIGEST.upper()),
    "a digest that is none": (("manifest", "chunks", 0), "zz"),
    "chunks of no bytes": (("manifest", "chunk_size"), 0),
    "huge chunks": (("manifest", "chunk_size"), 1 << 40),
    "two lines": (("manifest", "name"), "a\nb"),
    "half a signature": (("key",), KEY),
    "a frame of no bytes": (("manifest", "frames", 0), 0),
    "a size beyond doubles": (("manifest", "raw_size"), 2**53),
}


@pytest.mark.parametrize(("path", "value"), STRICT.values(), ids=STRICT.keys())
def test_reading_is_strict(path, value):
    assert refused(set_in(path, value)).startswith("the image's manifest: ")


@pytest.mark.parametrize("signature", [KEY, "A" * 88, base64.b64encode(bytes(64)).decode() + "\n", "=" * 88])
def test_a_signature_that_is_none(signature):
    said = json.loads(set_in(("key",), KEY))
    said["signature"] = signature
    assert "signature" in refused(json.dumps(said).encode())


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"manifest":{},"manifest":{}}', b"\xff", b" " * (MAX_BYTES + 1)]
)
def test_what_is_no_manifest(data):
    refused(data)


def test_it_is_of_the_image():
    made = ImageManifest.of(contents())
    made.check(**image())
    made.check(**image(digest=DIGEST.replace("a" * 64, "A" * 64), raw_size=18 * MIB, raw_digest=DIGEST))
    made.check(**image(digest="sha512:" + "c" * 128))  # the other kind of digest: nothing to compare
    replace(made, raw_size=None).check(**image(raw_size=1))


@pytest.mark.parametrize(
    "changes",
    [
        {"size": 1},
        {"digest": "sha256:" + "c" * 64},
        {"format": "qcow2"},
        {"kind": "root"},
        {"compression": "gzip"},
        {"raw_size": 1},
        {"raw_digest": "sha256:" + "c" * 64},
    ],
)
def test_it_is_of_another_image(changes):
    with pytest.raises(ImageError, match=f"its {next(iter(changes))} is") as caught:
        ImageManifest.of(contents()).check(**image(**changes))
    assert caught.value.code == "image_manifest"


def test_lengths_of_chunks():
    made = ImageManifest.of(contents())
    assert [made.chunk_length(n) for n in range(3)] == [4 * MIB, 4 * MIB, MIB]
    assert [made.raw_chunk_length(n) for n in (0, 4)] == [4 * MIB, 2 * MIB]


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_noise_is_refused(data):
    refused(data)
