"""Params are read strictly: a bad value is named by its path, a secret one never by its content."""

from __future__ import annotations

import copy

import pytest

from teeth_agent.errors import AgentError, ParamsError
from teeth_agent.image.params import Hint, read_cache, read_prepare, read_run
from teeth_agent.image.rootdisk import Candidate, choose

PREPARE = {
    "task_id": "t",
    "image": {
        "id": "i",
        "name": "n",
        "urls": ["http://127.0.0.1/i"],
        "size": 10,
        "digest": "sha256:" + "AB" * 32,
        "format": "raw",
        "compression": "zstd",
        "raw_size": 100,
    },
    "root_disk": {"serial": "S1", "size": {"op": ">=", "value": 5}},
}
RUN = {
    "image_id": "i",
    "config_drive": {
        "meta_data": {"uuid": "u"},
        "user_data": "SECRET",
        "files": [{"path": "/etc/x", "content_b64": "aGk="}],
    },
}


def changed(params, path, value):
    params = copy.deepcopy(params)
    *folders, last = path.split(".")
    inner = params
    for folder in folders:
        inner = inner[int(folder)] if folder.isdigit() else inner[folder]
    inner[last] = value
    return params


def test_good_params():
    wanted = read_prepare(PREPARE)
    assert wanted.image.digest == "sha256:" + "ab" * 32
    assert wanted.image.known_raw_size == 100
    assert wanted.hints == (
        Hint(key="serial", op="==", value="S1"),
        Hint(key="size", op=">=", value=5),
    )
    run = read_run(RUN)
    assert run.boot == "auto"
    assert run.config_drive.files[0].content == b"hi"
    assert "SECRET" not in repr(run)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("image", 1, "params.image: expected an object"),
        ("image.size", True, "params.image.size: expected a whole number"),
        ("image.size", 0, "params.image.size: expected 1"),
        ("image.urls", [], "params.image.urls: expected at least one"),
        ("image.urls", ["ftp://x/y"], "params.image.urls[0]: expected an http or https URL"),
        ("image.urls", ["http://x/y\r\nHost: z"], "params.image.urls[0]: expected an http or https URL"),
        ("image.urls", ["http://x:99999/"], "params.image.urls[0]: expected an http or https URL"),
        ("image.digest", "sha256:ab", "params.image.digest: expected sha256:HEX or sha512:HEX"),
        ("image.digest", "md5:" + "0" * 32, "params.image.digest: expected sha256:HEX or sha512:HEX"),
        ("image.compression", "bzip2", "params.image.compression: expected one of"),
        ("image.compression", "none", "params.image.raw_size: differs from size"),
        ("root_disk", {}, "params.root_disk: expected at least one hint"),
        ("root_disk.colour", "red", "params.root_disk.colour: not a hint"),
        ("root_disk.size", "10G", "params.root_disk.size: expected a whole number"),
        ("root_disk.size", {"op": "~", "value": 1}, "params.root_disk.size.op: expected one of"),
        ("root_disk.size", {"op": ">"}, "params.root_disk.size.value: missing, expected a whole"),
        ("root_disk.serial", {"op": ">", "value": "a"}, "params.root_disk.serial.op: expected one of ==, !="),
        ("root_disk.rotational", 1, "params.root_disk.rotational: expected true or false"),
    ],
)
def test_bad_prepare_params_are_named_by_their_path(path, value, said):
    with pytest.raises(ParamsError) as caught:
        read_prepare(changed(PREPARE, path, value))
    assert str(caught.value).startswith(said)


def test_a_manifest_peers_and_a_proxy():
    params = changed(
        PREPARE, "image.manifest", {"urls": ["http://x/m"], "size": 9, "digest": "sha256:" + "C" * 64}
    )
    params["image"] |= {"peers": ["http://10.0.0.2:8/i"], "proxy": "http://proxy:3128"}
    params |= {"skip": [{"serial": "S9"}, {"model": {"op": "contains", "value": "USB"}}], "deadline": 60.0}
    wanted = read_prepare(params | {"grow": "filesystem"})
    assert wanted.image.manifest.digest == "sha256:" + "c" * 64
    assert (wanted.image.peers, wanted.image.proxy) == (("http://10.0.0.2:8/i",), "http://proxy:3128")
    assert wanted.skip == (
        (Hint(key="serial", op="==", value="S9"),),
        (Hint(key="model", op="contains", value="USB"),),
    )
    assert (wanted.grow, wanted.deadline) == ("filesystem", 60.0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "tar"}, "format: expected raw or qcow2 for an image of kind disk"),
        ({"kind": "root", "format": "qcow2"}, "format: expected raw or tar for an image of kind root"),
        ({"peers": ["http://x/y"]}, "peers: expected only with a manifest or chunks"),
        ({"proxy": "http://:1"}, "proxy: expected an http or https URL"),
        ({"chunks": {"size": 4096, "digests": ["0" * 64] * 2}}, "chunks.digests: expected 1 for 10 bytes"),
        (
            {"manifest": {"urls": ["http://:1/"], "size": 9, "digest": "sha256:" + "0" * 64}},
            "manifest.urls[0]: expected an http or https URL",
        ),
    ],
)
def test_what_one_member_says_about_another(changes, said):
    image = PREPARE["image"] | changes
    with pytest.raises(ParamsError) as caught:
        read_prepare({**PREPARE, "image": image})
    assert str(caught.value).startswith(f"params.image.{said}")
    with pytest.raises(ParamsError) as caught:
        read_cache({"images": [image]})
    assert str(caught.value).startswith(f"params.images[0].{said}")


def test_images_to_cache():
    other = PREPARE["image"] | {"id": "j", "format": "qcow2", "compression": "none", "raw_size": 5}
    wanted = read_cache({"images": [PREPARE["image"], other], "share": True})
    assert [image.id for image in wanted.images] == ["i", "j"]
    assert [image.known_raw_size for image in wanted.images] == [100, 5]
    assert (wanted.share, wanted.deadline) == (True, None)
    with pytest.raises(ParamsError, match=r"params.images\[1\].id: i is named twice"):
        read_cache({"images": [PREPARE["image"]] * 2})


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("boot", "pxe", "params.boot: expected one of auto, kexec, reboot"),
        ("config_drive.meta_data", {}, "params.config_drive.meta_data.uuid: missing"),
        ("config_drive.user_data", {"SECRET": 1}, "params.config_drive.user_data: expected a string"),
        ("config_drive.vendor_data", 7, "params.config_drive.vendor_data: expected an object"),
        ("config_drive.files.0.path", "SECRET", "params.config_drive.files[0].path: expected an absolute"),
        ("config_drive.files.0.content_b64", "SECRET!", "params.config_drive.files[0].content_b64: expected"),
        ("config_drive.layout", "nocloud", "params.config_drive.files: NoCloud has no files"),
        ("config_drive.filesystem", "ext4", "params.config_drive.filesystem: expected one of"),
        ("config_drive.files.0.content_b64", 5, "params.config_drive.files[0].content_b64: expected"),
    ],
)
def test_bad_run_params_are_named_without_their_content(path, value, said):
    with pytest.raises(ParamsError) as caught:
        read_run(changed(RUN, path, value))
    assert str(caught.value).startswith(said)
    assert "SECRET" not in str(caught.value)


def disk(name, **changes):
    fields = {
        "identity": f"0x{name}",
        "path": f"/dev/{name}",
        "name": name,
        "size": 100,
        "serial": f"S-{name}",
        "wwn": "0x5000ABCD",
        "model": "DISK",
        "rotational": False,
        "by_path": "pci-0000:00:05.0-scsi-0:0:0:0",
        "hctl": "0:0:0:0",
    }
    return Candidate(**{**fields, **changes})


@pytest.mark.parametrize(
    ("key", "op", "value"),
    [
        ("serial", "==", "S-sda"),
        ("serial", "!=", "S-sdb"),
        ("wwn", "==", "5000abcd"),
        ("name", "==", "/dev/sda"),
        ("by_path", "==", "/dev/disk/by-path/pci-0000:00:05.0-scsi-0:0:0:0"),
        ("hctl", "==", "0:0:0:0"),
        ("size", ">=", 100),
        ("size", "<", 101),
        ("rotational", "==", False),
        ("model", "==", "DISK"),
        ("model", "contains", "IS"),
        ("by_path", "contains", "pci-0000:00:05"),
    ],
)
def test_one_match_is_the_root_disk(key, op, value):
    other = disk(
        "sdb", wwn=None, size=7 if op == ">=" else 200, rotational=True, model="X", by_path=None, hctl=None
    )
    assert choose([other, disk("sda")], [Hint(key=key, op=op, value=value)]).name == "sda"


@pytest.mark.parametrize(("value", "code"), [(100, "root_disk_ambiguous"), (101, "root_disk_missing")])
def test_no_match_or_two_is_an_error_that_lists_the_disks(value, code):
    with pytest.raises(AgentError) as caught:
        choose([disk("sda"), disk("sdb")], [Hint(key="size", op=">=", value=value)])
    assert caught.value.code == code
    assert "sda (serial S-sda, 100 bytes, DISK)" in str(caught.value)
    assert "size >= " in str(caught.value)


def test_a_disk_that_does_not_say_matches_no_hint_not_even_an_unequal_one():
    with pytest.raises(AgentError) as caught:
        choose([disk("sda", serial=None)], [Hint(key="serial", op="!=", value="x")])
    assert caught.value.code == "root_disk_missing"


def test_a_skip_list_beats_a_hint():
    disks = [disk("sda"), disk("sdb")]
    hints = [Hint(key="model", op="==", value="DISK")]
    skip = [[Hint(key="serial", op="==", value="S-sdb"), Hint(key="size", op=">", value=1)]]
    assert choose(disks, hints, skip).name == "sda"
    # All hints of one list must hold: a disk that fits half of one is not skipped.
    with pytest.raises(AgentError) as caught:
        choose(disks, hints, [[*skip[0], Hint(key="rotational", op="==", value=True)]])
    assert caught.value.code == "root_disk_ambiguous"
    with pytest.raises(AgentError) as caught:
        choose(disks, [Hint(key="name", op="==", value="sdb")], skip)
    assert caught.value.code == "root_disk_missing"
    assert "skipped as asked: sdb (serial S-sdb" in str(caught.value)
