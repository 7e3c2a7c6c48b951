"""What a tool claimed against what lies in the backing file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from teeth.cli import teeth
from teeth.errors import TeethError, UsageError
from teeth.lab.drives.answer import Command, Wait
from teeth.lab.drives.control import Control, listen
from teeth.lab.drives.served import Served
from teeth.lab.drives.server import make_drive
from teeth.lab.drives.spec import SpecError, parse
from teeth.lab.drives.unit import Unit
from teeth.lab.drives.verdict import Claim, Verdict, check, judge, read_claims, read_content
from teeth.lab.pattern import create_dirty_disk

SECTOR = 512
BLOCKS = 2048
TOTAL = BLOCKS + 64  # with the retired ones


def drives(folder: Path, **lies: str) -> list[Served]:
    """SCSI drives of 1 MiB by name, each full, with one lie or none."""
    tables = [
        {"name": name, "kind": "scsi", "size": "1 MiB", "serial": name.upper(), "file": f"{name}.img",
         "fill": True, "erase_seconds": 0, "lies": [lie] if lie else []}
        for name, lie in lies.items()
    ]  # fmt: skip
    served = []
    for entry in parse({"drive": tables}, folder / "spec.toml").drives:
        one = Served(name=entry.spec.name, iqn=f"iqn:{entry.spec.name}", unit=make_drive(entry))
        for text in entry.behaviours:
            one.add(text)
        served.append(one)
    return served


def run(unit: Unit, cdb: str, data: bytes = b"") -> None:
    answer = unit.execute(Command(cdb=bytes.fromhex(cdb).ljust(16, b"\0"), data=data, nexus="a"))
    while isinstance(answer, Wait):
        unit.settle()
        answer = answer.finish()


def listed(served: list[Served]) -> list[dict[str, object]]:
    found = Control(served).answer({"do": "list"})["drives"]
    assert isinstance(found, list)
    return found


def test_every_kind_of_block_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_dirty_disk(path, 8 * SECTOR, "S1")
    with path.open("r+b") as stream:
        stream.write(bytes(2 * SECTOR) + b"\xa5" * SECTOR)
    content = read_content(path, SECTOR)
    assert (content.zero, content.other, content.marked, content.first) == (2, 1, 5, 3)
    assert content.blocks == 8
    with pytest.raises(TeethError, match="missing cannot be read"):
        read_content(tmp_path / "missing", SECTOR)


def test_one_surviving_record_makes_a_block_one_that_is_left(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_dirty_disk(path, SECTOR, "S1")
    with path.open("r+b") as stream:
        stream.write(bytes(SECTOR - 64))
    assert read_content(path, SECTOR).marked == 1


@pytest.mark.parametrize(
    ("claim", "left", "verdict"),
    [
        (Claim.ERASED, False, Verdict.RIGHT),
        (Claim.ERASED, True, Verdict.DECEIVED),
        (Claim.FAILED, True, Verdict.RIGHT),
        (Claim.FAILED, False, Verdict.UNSURE),
        (Claim.NOTHING, True, Verdict.SILENT),
        (Claim.NOTHING, False, Verdict.SILENT),
    ],
)
def test_the_verdict(claim: Claim, left: bool, verdict: Verdict) -> None:
    assert judge(claim, left=left) is verdict


def test_claims_stand_among_a_tools_other_lines() -> None:
    text = "wiping...\nA erased\nall of B failed\nB failed\nA erased\n"
    assert read_claims(text, ["A", "B", "C"]) == {"A": Claim.ERASED, "B": Claim.FAILED}


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "there is no claim"), ("A erased\nX erased", "line 2: there is no drive X"),
     ("A erased\nA failed", "line 2: A is both")],
)  # fmt: skip
def test_claims_that_are_none(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_claims(text, ["A"])


def test_a_drive_begins_as_new_whenever_it_is_served(tmp_path: Path) -> None:
    (one,) = drives(tmp_path, a="")
    assert check(listed([one]), None)[0].content.marked == TOTAL
    run(one.unit, "4802")  # SANITIZE, block erase
    one.power_off()
    one.power_on()
    one.close()
    assert read_content(tmp_path / "a.img", SECTOR).zero == TOTAL
    assert json.loads((tmp_path / "a.img.json").read_text())["power_cycles"] > 0
    (again,) = drives(tmp_path, a="")
    assert read_content(tmp_path / "a.img", SECTOR).marked == TOTAL
    assert again.unit.disk.state.power_cycles == 0
    again.close()


def test_filled_drives_need_a_file() -> None:
    table = {"name": "a", "kind": "scsi", "size": "1 MiB", "fill": True}
    with pytest.raises(SpecError, match="fill needs file"):
        parse({"drive": [table]}, Path("spec.toml"))


def test_a_drive_in_memory_cannot_be_checked() -> None:
    (entry,) = parse({"drive": [{"name": "a", "kind": "scsi", "size": "1 MiB"}]}, Path("x")).drives
    served = Served(name="a", iqn="iqn:a", unit=make_drive(entry))
    with pytest.raises(TeethError, match="drive a has no backing file"):
        check(listed([served]), None)


async def say(folder: Path, *words: str, claims: str = "") -> Result:
    """``teeth lab drive check`` of what is served at folder/control."""
    argv = ["lab", "drive", "check", str(folder / "control"), *words]
    return await asyncio.to_thread(CliRunner().invoke, teeth, argv, input=claims)


async def test_the_command_judges_a_tool(tmp_path: Path) -> None:
    served = drives(tmp_path, honest="", half="erases-half", careful="")
    for one in served[:2]:
        run(one.unit, "4802")
    async with listen(Control(served), tmp_path / "control"):
        claims = "HONEST erased\nhalf erased\nCAREFUL failed\n"
        result = await say(tmp_path, "--claims", "-", claims=claims)
        assert result.exit_code == 1
        lines = [" ".join(line.split()) for line in result.output.splitlines()]
        left = BLOCKS // 2 + 64
        assert lines == [
            "honest HONEST nothing left tool: erased verdict: right",
            f"half HALF {left} of {TOTAL} blocks left tool: erased verdict: believed a lie",
            f"careful CAREFUL {TOTAL} of {TOTAL} blocks left tool: failed verdict: right",
        ]
        right = await say(tmp_path, "--claims", "-", claims=claims.replace("half erased", "half failed"))
        assert right.exit_code == 0
        plain = await say(tmp_path, "--json")
        assert plain.exit_code == 1
        facts = [json.loads(line) for line in plain.output.splitlines()]
        assert [fact["marked"] for fact in facts] == [0, left, TOTAL]
        assert facts[1]["lies"] == ["erases-half"]
    for one in served:
        one.close()
