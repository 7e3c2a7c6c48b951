"""An image of the store on its way to a machine: added while the endpoint runs, offered, fetched."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from fakes import storedimages
from fakes.operator_door import open_door
from teeth.api.credentials import TOKEN_FILE
from teeth.boot.images import ImageFile
from teeth.cli import main
from teeth.errors import UsageError
from teeth.images.store import ImageStore, signing_key
from teeth.service import Endpoint, EndpointConfig
from teeth.signing import is_signed, public_raw
from teeth_image.manifest import ImageManifest, signed_bytes
from teeth_protocol.shape import read
from teeth_protocol.wire.standbye import Image


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return storedimages.disk(tmp_path_factory.mktemp("disk"), "small.raw")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def teeth(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    code = ended.value.code
    assert isinstance(code, int)
    return code, out, err


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


async def test_an_image_that_is_added_is_offered_at_once(
    disk: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Endpoint(EndpointConfig(data=data)) as endpoint, httpx.AsyncClient(trust_env=False) as client:
        assert endpoint.images() == []
        code, out, err = await asyncio.to_thread(
            teeth, capsys, "image", "add", disk, "--data", data, "--level", "1"
        )
        assert (code, err) == (0, "")
        (image,) = ImageStore(data).listing()
        assert out.startswith("small added: disk, x86_64, ")
        params = endpoint.image("small")
        assert (
            params
            == endpoint.image(image.id)
            == endpoint.image(image.digest)
            == endpoint.image(image.id[7:19])
        )
        assert read(Image, params, "image").kind == "disk"
        content = (await client.get(params["urls"][0])).content
        assert (len(content), f"sha256:{hashlib.sha256(content).hexdigest()}") == (
            params["size"],
            params["digest"],
        )
        named = params["manifest"]
        text = (await client.get(named["urls"][0])).content
        assert (len(text), f"sha256:{hashlib.sha256(text).hexdigest()}") == (named["size"], named["digest"])
        manifest = ImageManifest.parse(text)
        manifest.check(
            **{key: params[key] for key in ("size", "digest", "format", "kind", "compression", "raw_size")}
        )
        assert manifest.key == public_raw(signing_key(data))
        assert manifest.signature is not None
        assert is_signed(manifest.key, manifest.signature, signed_bytes(manifest))
        code, _, _ = await asyncio.to_thread(
            teeth, capsys, "image", "remove", "small", "--data", data, "--yes"
        )
        assert (code, endpoint.images()) == (0, [])
        for url in (*params["urls"], *named["urls"]):
            assert (await client.get(url)).status_code == 404
        with pytest.raises(UsageError, match="there is no image 'small'"):
            endpoint.image("small")


async def test_caches_are_asked_first(disk: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await asyncio.to_thread(teeth, capsys, "image", "add", disk, "--data", data, "--level", "1")
    caches = ("http://192.0.2.1:80", "http://192.0.2.2:80")
    async with Endpoint(EndpointConfig(data=data, image_caches=caches)) as endpoint:
        params = endpoint.image("small")
        bases = [*caches, endpoint.boot_url]
        assert params["urls"] == [f"{base}/images/{params['id']}" for base in bases]
        assert [url.partition("/images/")[0] for url in params["manifest"]["urls"]] == bases


async def test_the_operators_door_tells_what_is_in_it(
    disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_door(tmp_path) as door:
        folder = tmp_path / "data"
        await asyncio.to_thread(teeth, capsys, "image", "add", disk, "--data", folder, "--level", "1")
        listed = (await door.client.get("/v1/images")).json()["images"]
        assert [one["about"] is None for one in sorted(listed, key=lambda one: str(one["id"]))] == [
            True,
            False,
        ]
        one = (await door.client.get("/v1/images/small")).json()
        assert one in listed
        assert (one["about"]["boot"], one["about"]["kernel"]) == (["bios", "uefi"], "/boot/vmlinuz-6.1")
        missing = await door.client.get("/v1/images/large")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "image_unknown")
        assert "small" in missing.json()["error"]["hint"]
        monkeypatch.setenv("TEETH_API", door.url)
        monkeypatch.setenv("TEETH_TOKEN_FILE", str(folder / TOKEN_FILE))
        code, out, _ = await asyncio.to_thread(teeth, capsys, "image", "params", "small")
        assert (code, json.loads(out)) == (0, one["params"])


def line_of(endpoint: Endpoint, grant: Any) -> list[str]:
    return endpoint.kernel_command_line(grant).split()


async def test_machines_are_told_whose_images_they_may_take(
    disk: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with Endpoint(EndpointConfig(data=data)) as endpoint:
        assert not [one for one in line_of(endpoint, await endpoint.grant()) if "image_key" in one]
    async with Endpoint(EndpointConfig(data=data, require_signed_images=True)) as endpoint:
        said = [one for one in line_of(endpoint, await endpoint.grant()) if "image_key" in one]
    _, out, _ = await asyncio.to_thread(teeth, capsys, "image", "key", "--data", data)
    assert said == [out.splitlines()[-1]]
    assert said[0].startswith("teeth.image_key=sha256:")
    assert (data / "images.key").stat().st_mode & 0o777 == 0o600
    unsigned = ImageFile(path=disk, manifest={"id": "i-1"})
    config = EndpointConfig(data=tmp_path / "other", images=(unsigned,), require_signed_images=True)
    with pytest.raises(UsageError, match="the image i-1 is not signed"):
        async with Endpoint(config):
            pass


# --- the command line


@pytest.fixture
def stored(disk: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    teeth(capsys, "image", "add", disk, "--data", data, "--level", "1")
    return data


def test_what_there_is_is_shown(stored: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = teeth(capsys, "--data", stored, "image", "list")
    assert all(word in out for word in ("small", "disk", "x86_64", "bios, uefi"))
    _, out, _ = teeth(capsys, "--data", stored, "image", "show", "small", "--json")
    shown = json.loads(out)
    assert (shown["name"], shown["raw_size"], shown["chunks"]) == ("small", disk.stat().st_size, 1)
    _, out, _ = teeth(capsys, "--data", stored, "image", "params", "small", "--base", "http://cache")
    assert json.loads(out)["urls"] == [f"http://cache/images/{shown['id']}"]


def test_a_manifest_that_was_changed_is_told(stored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image,) = ImageStore(stored).listing()
    path = stored / "images" / image.id / "manifest"
    path.write_bytes(path.read_bytes().replace(b'"name":"small"', b'"name":"other"'))
    code, out, err = teeth(capsys, "--data", stored, "image", "show", "small")
    assert (code, out, err) == (1, "", "teeth: the manifest of small is not what was signed\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("add", "/nowhere/disk.raw"), 2, "there is no file /nowhere/disk.raw"),
        (("add", "/"), 2, "is no name for an image"),
        (("add", "/tmp", "--name", "x"), 2, "is a folder, not an image"),
        (("add", "/etc/hostname", "--max-size", "x"), 2, "'x' is no size"),
        (("show", "large"), 2, "there is no image 'large'"),
        (("remove", "small"), 2, ""),
        (("params", "a/b", "--base", "http://x"), 2, "there is no image 'a/b'"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else str(value),
)
def test_what_cannot_be_is_one_line(
    stored: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, said: str
) -> None:
    ended, out, err = teeth(capsys, "--data", stored, "image", *words)
    assert (ended, out) == (code, "")
    assert said in err
    assert "Traceback" not in err
    assert len(ImageStore(stored).listing()) == 1


def test_whose_images_must_be_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEETH_DATA", raising=False)
    code, _, err = teeth(capsys, "image", "list")
    assert (code, "whose images?" in err) == (2, True)
