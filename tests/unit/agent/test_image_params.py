"""Params are read strictly: a bad value is named by its path, a secret one never by its content."""

from __future__ import annotations

import copy

import pytest

from teeth_agent.errors import AgentError, ParamsError
from teeth_agent.image.params import Hint, read_prepare, read_run
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


def test_qcow2_is_refused_by_a_code_of_its_own():
    with pytest.raises(AgentError) as caught:
        read_prepare(changed(PREPARE, "image.format", "qcow2"))
    assert caught.value.code == "image_format"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("boot", "pxe", "params.boot: expected one of auto, kexec, reboot"),
        ("config_drive.meta_data", {}, "params.config_drive.meta_data.uuid: missing"),
        ("config_drive.user_data", {"SECRET": 1}, "params.config_drive.user_data: expected a string"),
        ("config_drive.vendor_data", 7, "params.config_drive.vendor_data: expected an object"),
        ("config_drive.files.0.path", "SECRET", "params.config_drive.files[0].path: expected an absolute"),
        ("config_drive.files.0.content_b64", "SECRET!", "params.config_drive.files[0].content_b64: expected"),
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
