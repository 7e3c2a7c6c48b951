"""Files that describe drives, the wrong ones above all, and the commands."""

from __future__ import annotations

import json
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from teeth.cli import teeth
from teeth.errors import UsageError
from teeth.lab.drives.behaviours import BEHAVIOURS
from teeth.lab.drives.model import Medium, Method
from teeth.lab.drives.nvme import NvmeSpec
from teeth.lab.drives.spec import SpecError, load

GOOD = """
listen = "127.0.0.1:0"

[[drive]]
name = "sata0"
kind = "sata"
size = "8 MiB"
file = "sata0.img"
medium = "hdd"
rpm = 5400
password = "p"
hidden = 100
lies = ["erases-half"]
faults = ["slow:0.1"]

[[drive]]
name = "sas0"
kind = "scsi"
size = "16MiB"
sector = 4096
sanitize = ["crypto"]
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "drives.toml"
    path.write_text(text)
    return path


def test_a_good_file(tmp_path: Path) -> None:
    spec = load(written(tmp_path, GOOD))
    first, second = spec.drives
    assert (first.kind, first.spec.blocks, first.spec.rpm, first.spec.medium) == (
        "sata",
        16384,
        5400,
        Medium.HDD,
    )
    assert first.file == tmp_path / "sata0.img"
    assert first.behaviours == ("erases-half", "slow:0.1")
    assert (second.spec.blocks, second.file) == (4096, None)
    assert second.spec.sanitizes == {Method.SANITIZE_CRYPTO}
    assert first.spec.wwn != second.spec.wwn
    assert not first.spec.unmap
    assert spec.control == tmp_path / "drives.control"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('kind = "sata"', 'kind = "nvm"', "kind 'nvm' is none of sata, scsi, nvme"),
        ('kind = "sata"\n', "", "no kind"),
        ('name = "sata0"', 'name = "SATA 0"', "name 'SATA 0'"),
        ('name = "sata0"', 'name = "sas0"', "name sas0 appears twice"),
        ('size = "8 MiB"', 'size = "8 MB"', "size '8 MB' is not"),
        ('size = "8 MiB"', "size = 8", "size = 8 is not a text"),
        ('size = "8 MiB"\n', "", "no size"),
        ("rpm = 5400", 'rpm = "5400"', "rpm = '5400' is not a whole number"),
        ("rpm = 5400", "rpm = true", "rpm = True is not a whole number"),
        ("rpm = 5400", "rmp = 5400", "there is no setting 'rmp' here"),
        ('medium = "hdd"', 'medium = "tape"', "medium 'tape' is none of ssd, hdd"),
        ("sector = 4096", "sector = 520", "sector 520 is neither 512 nor 4096"),
        ("hidden = 100", "hidden = 99999", "hidden blocks"),
        ('lies = ["erases-half"]', 'lies = ["erase-half"]', "did you mean erases-half"),
        ('lies = ["erases-half"]', 'lies = "erases-half"', "is not a list of texts"),
        ('sanitize = ["crypto"]', 'sanitize = ["burn"]', "sanitize 'burn' is none of"),
        ('listen = "127.0.0.1:0"', 'listen = "localhost"', "is not ADDRESS:PORT"),
        ('listen = "127.0.0.1:0"', 'user = "me"', "user and secret go together"),
        ('listen = "127.0.0.1:0"', 'user = "me"\nsecret = "short"', "secret has 12"),
        ('kind = "scsi"', 'kind = "scsi"\npassword = "p"', "there is no setting 'password' here"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert len(caught.value.lines) == 1
    assert said in caught.value.lines[0]
    assert caught.value.lines[0].startswith(str(path))


def test_every_mistake_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD.replace("rpm", "rmp").replace('"16MiB"', '"x"').replace("127.0.0.1:0", "?"))
    with pytest.raises(SpecError) as caught:
        load(path)
    assert len(caught.value.lines) == 3
    result = CliRunner().invoke(teeth, ["lab", "drive", "serve", str(path)])
    assert isinstance(result.exception, UsageError)
    assert len(str(result.exception).splitlines()) == 3


@pytest.mark.parametrize(
    ("text", "said"), [("a = ", "is not TOML"), ("", "no .*drive"), ("drive = 3", "written as")]
)
def test_files_that_are_none(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load(written(tmp_path, text))
    with pytest.raises(UsageError, match="cannot be read"):
        load(tmp_path / "missing.toml")


def test_the_list_of_lies_and_faults() -> None:
    result = CliRunner().invoke(teeth, ["lab", "drive", "faults"])
    assert result.exit_code == 0
    names = re.findall(r"^  (\S+) +\S", result.output, re.MULTILINE)
    assert names == list(BEHAVIOURS)


def say(*words: str) -> Result:
    return CliRunner().invoke(teeth, ["lab", "drive", *words])


def test_served_from_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    teeth_argv = [sys.executable, "-m", "teeth", "lab", "drive"]
    with subprocess.Popen([*teeth_argv, "serve", str(path)], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 60.0)[0]
            ready = process.stdout.readline()
            match = re.fullmatch(
                r"listening (iscsi://127\.0\.0\.1:\d+/\S+/0) drive=sata0 control=(\S+)\n", ready
            )
            assert match
            control = match[2]

            done = say("fault", control, "hang", "--drive", "sas0")
            assert json.loads(done.output)["behaviours"] == ["hang"]
            assert (
                json.loads(say("fault", control, "hang", "--off", "--drive", "sas0").output)["behaviours"]
                == []
            )
            assert json.loads(say("power-cut", control, "--drive", "sata0").output)["security"] == "SEC4"
            assert len(say("list", control).output.splitlines()) == 2
            assert "which one" in str(say("fault", control, "hang").exception)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            assert "no drives are served" in str(say("list", control).exception)
        finally:
            process.kill()
    assert not Path(control).exists()
    state = json.loads((tmp_path / "sata0.img.json").read_text())
    assert state["power_cycles"] == 1


NVME = """
nvme_listen = "127.0.0.1:0"

[[drive]]
name = "n0"
kind = "nvme"
size = "16 MiB"
file = "n0.img"
sanitize = ["block", "crypto"]
namespaces = [{ size = "8 MiB" }, { size = "4 MiB", sector = 4096 }, { size = "1 MiB", attached = false }]
erase_all = true
slots = 2
lies = ["leaves-detached"]
"""


def test_an_nvme_drive(tmp_path: Path) -> None:
    entry = load(written(tmp_path, NVME)).drives[0]
    assert isinstance(entry.spec, NvmeSpec)
    assert [(one.blocks, one.sector, one.attached) for one in entry.spec.namespaces] == [
        (16384, 512, True), (8192, 4096, True), (2048, 512, False),
    ]  # fmt: skip
    assert (entry.spec.erase_all, entry.spec.format_all, entry.spec.slots) == (True, False, 2)
    assert entry.spec.sanitizes == {Method.SANITIZE_BLOCK, Method.SANITIZE_CRYPTO}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('size = "8 MiB"', 'size = "80 MiB"', "its namespaces are larger than the drive"),
        ('size = "8 MiB"', 'size = "8 MiB", nsid = 3', "there is no setting 'nsid' here"),
        ("sector = 4096", "sector = 520", "sector 520 is neither 512 nor 4096"),
        ("slots = 2", "slots = 9", "9 firmware slots are not 1 to 7"),
        ("slots = 2", "security = true", "there is no setting 'security' here"),
        ("slots = 2", 'nqn = "d0"', "nqn 'd0' is no NVMe qualified name"),
        ("leaves-detached", "keeps-password", "keeps-password means nothing to a drive of kind nvme"),
        ('"127.0.0.1:0"', '"here"', "nvme_listen = 'here' is not ADDRESS:PORT"),
        (
            'nvme_listen = "127.0.0.1:0"',
            'nvme_advertise = "here"',
            "nvme_advertise = 'here' is not an address",
        ),
    ],
)
def test_a_wrong_nvme_drive_is_told(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert NVME.count(old) >= 1
    with pytest.raises(SpecError) as caught:
        load(written(tmp_path, NVME.replace(old, new)))
    assert said in str(caught.value)


def test_an_nvme_drive_served_from_the_command_line(tmp_path: Path) -> None:
    path = written(tmp_path, NVME)
    argv = [sys.executable, "-m", "teeth", "lab", "drive", "serve", str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert select.select([process.stdout], [], [], 60.0)[0]
            ready = process.stdout.readline()
            match = re.fullmatch(
                r"listening nvme-tcp://127\.0\.0\.1:(\d+)/(nqn\.\S+:n0) drive=n0 control=(\S+)\n", ready
            )
            assert match
            told = json.loads(say("list", match[3]).output)
            assert (told["transport"], told["port"], told["nqn"]) == ("tcp", int(match[1]), match[2])
            assert [one["attached"] for one in told["namespaces"]] == [True, True, False]
            assert json.loads(say("fault", match[3], "sanitize-fails:30").output)["behaviours"] == [
                "leaves-detached", "sanitize-fails:30",
            ]  # fmt: skip
            assert json.loads(say("power-cut", match[3]).output)["power_cycles"] == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
