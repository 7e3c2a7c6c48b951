"""What a system left in the firmware goes on request; what the firmware may need stays."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeth_agent import efivars
from teeth_agent.efivars import GLOBAL, Variable
from teeth_agent.erase.traces import remove_traces, starts_from_disk, without_entries
from teeth_agent.errors import AgentError

ACTIVE = struct.pack("<I", 1)
HARD_DRIVE = struct.pack("<BBH", 4, 1, 42) + bytes(38)
FILE_PATH = struct.pack("<BBH", 4, 4, 10) + "ab\0".encode("utf-16-le")
PCI = struct.pack("<BBH", 1, 1, 6) + bytes(2)
END = b"\x7f\xff\x04\0"


def option(title: str, *nodes: bytes) -> bytes:
    path = b"".join(nodes) + END
    return ACTIVE + struct.pack("<H", len(path)) + title.encode("utf-16-le") + b"\0\0" + path


DEBIAN = option("debian", HARD_DRIVE, FILE_PATH)
NETWORK = option("UEFI PXEv4", PCI)
LEFT = {
    f"Boot0000-{GLOBAL}": NETWORK,
    f"Timeout-{GLOBAL}": b"\5\0",
    "SecureSetting-11111111-2222-3333-4444-555555555555": b"x",
    "MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23": b"keys",
}
GONE = {
    f"Boot0001-{GLOBAL}": DEBIAN,
    f"Boot00AF-{GLOBAL}": option("ubuntu", PCI, HARD_DRIVE, FILE_PATH),
    "dump-type0-1-1-1700000000-C-cfc8fc79-be2e-4ddc-97f0-9f98bfe298a0": b"panic",
    "LoaderSystemToken-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f": b"t",
    "MokNew-605dab50-e046-4300-abb6-3dd810dd8b23": b"k",
}
ORDER = f"BootOrder-{GLOBAL}"


@pytest.fixture
def machine(tmp_path: Path) -> tuple[Path, Path]:
    variables, pstore = tmp_path / "efivars", tmp_path / "pstore"
    variables.mkdir()
    pstore.mkdir()
    for name, data in {**LEFT, **GONE, ORDER: struct.pack("<4H", 0xAF, 0, 1, 7)}.items():
        (variables / name).write_bytes(struct.pack("<I", 7) + data)
    (pstore / "dmesg-erst-1").write_text("panic")
    return variables, pstore


def test_what_a_system_left_goes_and_the_rest_stays(machine: tuple[Path, Path]) -> None:
    variables, pstore = machine
    mounted: list[Path] = []
    traces = remove_traces(mount_pstore=mounted.append, variables=variables, pstore=pstore)
    assert {path.name for path in variables.iterdir()} == {*LEFT, ORDER}
    assert list(pstore.iterdir()) == []
    assert mounted == [pstore]
    assert set(traces.removed) == {*GONE, "pstore/dmesg-erst-1"}
    assert (traces.failed, traces.left) == ((), len(LEFT) + 1)
    attributes, order = efivars.read(Variable(name="BootOrder", guid=GLOBAL), variables)
    # A plain folder keeps the tail of the longer file, where efivarfs replaces the whole.
    assert (attributes, order[:4]) == (7, struct.pack("<2H", 0, 7))


def test_an_order_with_nothing_left_in_it_goes_too(machine: tuple[Path, Path]) -> None:
    variables, pstore = machine
    (variables / ORDER).write_bytes(struct.pack("<I2H", 7, 1, 0xAF))
    remove_traces(mount_pstore=lambda _: None, variables=variables, pstore=pstore)
    assert not (variables / ORDER).exists()


def test_what_cannot_be_removed_is_told_and_stops_nothing(machine: tuple[Path, Path]) -> None:
    variables, pstore = machine
    (pstore / "dmesg-folder").mkdir()  # unlink refuses it

    def refuse(_: Path) -> None:
        raise AgentError("mount: unknown file system type", code="tool_failed")

    traces = remove_traces(mount_pstore=refuse, variables=variables, pstore=pstore)
    assert traces.failed == (("pstore", "mount: unknown file system type"),)
    assert set(traces.removed) == set(GONE)
    traces = remove_traces(mount_pstore=lambda _: None, variables=variables, pstore=pstore)
    assert [name for name, _ in traces.failed] == ["pstore/dmesg-folder"]
    assert traces.removed == ("pstore/dmesg-erst-1",)


def test_a_machine_without_either_has_no_traces(tmp_path: Path) -> None:
    traces = remove_traces(
        mount_pstore=lambda _: None, variables=tmp_path / "efivars", pstore=tmp_path / "pstore"
    )
    assert traces.to_json() == {"removed": [], "removed_count": 0, "failed": [], "left": 0}


def test_entries_that_start_from_a_partition_are_told_from_others() -> None:
    assert starts_from_disk(DEBIAN)
    assert not starts_from_disk(NETWORK)
    assert not starts_from_disk(b"")
    assert not starts_from_disk(option("endless", struct.pack("<BBH", 1, 1, 0)))


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange(data: bytes) -> None:
    assert isinstance(starts_from_disk(data), bool)
    assert set(without_entries(data, ())) <= set(data)


def test_a_variable_that_is_cut_short_or_missing_is_one_line(tmp_path: Path) -> None:
    variable = Variable(name="Short", guid=GLOBAL)
    (tmp_path / variable.file).write_bytes(b"\1")
    with pytest.raises(AgentError, match="cut short"):
        efivars.read(variable, tmp_path)
    with pytest.raises(AgentError, match="cannot remove it: No such file"):
        efivars.remove(Variable(name="None", guid=GLOBAL), tmp_path)
