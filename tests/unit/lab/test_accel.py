"""The accelerator probe, with programs in QEMU's place that behave as good and broken hosts do."""

from __future__ import annotations

import gzip
import json
import os
import struct
from pathlib import Path

import pytest

from teeth.errors import TeethError, UsageError
from teeth.lab import accel
from teeth.lab.accel import find_accelerator, probe_boot, probe_kvm
from teeth.lab.probe_payload import MARKER, init_program, probe_initramfs

VERSION = (
    'if [ "$1" = --version ]; then echo "QEMU emulator version 7.2.1 (fake)"; exit; fi; echo x >> "$COUNT"; '
)
GOOD = f'echo "Linux version"; echo "{MARKER}"'
HANG = 'echo "SeaBIOS (version 1)"; exec sleep 600'
ABORT = (
    'echo "qemu-system-x86_64: error: failed to set MSR 0x10a" >&2; echo "Assertion failed." >&2; exit 134'
)
EARLY = 'echo "Kernel panic - not syncing: VFS"'


class Host:
    """A host whose QEMU is a script and whose /dev/kvm is a plain file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.kernel = folder / "vmlinuz"
        self.kernel.write_bytes(b"kernel")
        self.device = folder / "kvm"
        self.device.touch()
        self.count = folder / "count"
        monkeypatch.setenv("PATH", f"{self.bin}:{os.environ['PATH']}")
        monkeypatch.setenv("COUNT", str(self.count))
        self.qemu(GOOD)

    def qemu(self, body: str) -> None:
        program = self.bin / "qemu-system-x86_64"
        program.write_text(f"#!/bin/sh\n{VERSION}{body}\n")
        program.chmod(0o755)

    def find(self, *, kernel: Path | None = None, again: bool = False, **env: str):  # type: ignore[no-untyped-def]
        return find_accelerator(
            kernel or self.kernel, self.folder / "cache", env=env, device=self.device, again=again
        )

    @property
    def boots(self) -> int:
        return len(self.count.read_text().splitlines()) if self.count.exists() else 0


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_kvm_is_taken_when_a_program_ran_under_it(host: Host) -> None:
    found = host.find()
    assert found.name == "kvm"
    assert found.argv == ("-accel", "kvm", "-cpu", "host")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (ABORT, "QEMU ended with 134: failed to set MSR 0x10a"),
        (EARLY, "the kernel ended before its first program"),
    ],
)
def test_tcg_is_taken_when_kvm_fails(host: Host, body: str, reason: str) -> None:
    host.qemu(body)
    found = host.find()
    assert found.name == "tcg"
    assert found.reason == f"KVM does not work here: {reason}"


def test_a_hanging_kernel_is_given_up(host: Host) -> None:
    host.qemu(HANG)
    assert probe_kvm(host.kernel, deadline=0.2).reason.endswith("a kernel did not come up within 0.2 s")


def test_the_probe_leaves_no_files(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = host.folder / "tmp"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    host.qemu("touch core; " + ABORT)
    assert probe_boot(["-accel", "kvm"], host.kernel, 10)
    assert list(scratch.iterdir()) == []


def test_the_answer_is_remembered_per_kernel(host: Host) -> None:
    assert [host.find().name, host.find().name] == ["kvm", "kvm"]
    assert host.boots == 1
    host.kernel.write_bytes(b"another kernel")
    host.find()
    assert host.boots == 2


def test_asking_again_boots_again(host: Host) -> None:
    host.find()
    host.qemu(EARLY)
    assert host.find().name == "kvm"
    assert host.find(again=True).name == "tcg"
    assert host.find().name == "tcg"


@pytest.mark.parametrize("content", ["", "[1]", "{", json.dumps({"k": {"name": "xen", "reason": ""}})])
def test_a_spoilt_memory_counts_as_empty(host: Host, content: str) -> None:
    cache = host.folder / "cache"
    cache.mkdir()
    (cache / "accel.json").write_text(content)
    assert host.find().name == "kvm"
    assert host.boots == 1


def test_without_the_device_nothing_is_booted(host: Host) -> None:
    host.device.unlink()
    found = host.find()
    assert (found.name, found.reason) == ("tcg", f"there is no {host.device}")
    assert host.boots == 0


def test_without_a_kernel_kvm_is_not_trusted(host: Host) -> None:
    found = host.find(kernel=host.folder / "absent")
    assert found.name == "tcg"
    assert "no kernel yet" in found.reason


@pytest.mark.parametrize("name", ["kvm", "tcg"])
def test_the_user_has_the_last_word(host: Host, name: str) -> None:
    assert host.find(TEETH_ACCEL=name).name == name
    assert host.boots == 0


def test_a_senseless_word_is_refused(host: Host) -> None:
    with pytest.raises(UsageError, match="TEETH_ACCEL='xen': there are kvm and tcg"):
        host.find(TEETH_ACCEL="xen")


def test_a_missing_qemu_is_one_line(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(host.folder))
    with pytest.raises(TeethError, match="is not installed"):
        host.find()


def test_the_archive_holds_one_program() -> None:
    archive = gzip.decompress(probe_initramfs())
    assert archive.startswith(b"070701")
    assert len(archive) % 4 == 0
    assert archive.count(b"070701") == 2
    assert b"TRAILER!!!\0" in archive
    assert init_program() in archive


def test_the_program_is_whole() -> None:
    program = init_program()
    entry, headers = struct.unpack_from("<QQ", program, 24)
    kind, flags, offset, address, _, in_file, in_memory, _ = struct.unpack_from("<IIQQQQQQ", program, headers)
    assert (kind, flags, offset) == (1, 5, 0)
    assert in_file == in_memory == len(program)
    assert program[entry - address :].startswith(b"\xb8\x01\x00\x00\x00")  # mov eax, 1: write
    assert program.endswith(f"\n{MARKER}\n".encode())


@pytest.mark.parametrize(
    ("name", "version", "cpus"),
    [
        ("tcg", "7.2.22 (Debian 1:7.2)", 1),
        ("tcg", "8.0.5", 1),
        ("tcg", "8.1.0", 2),
        ("tcg", "10.0.2 (Debian)", 2),
        ("tcg", "a build of our own", 1),
        ("kvm", "7.2.22", 2),
    ],
)
def test_one_processor_where_the_emulator_races(
    monkeypatch: pytest.MonkeyPatch, name: str, version: str, cpus: int
) -> None:
    monkeypatch.setattr(accel, "qemu_version", lambda: version)
    assert accel.steady_cpus(accel.accelerator(name, ""), 2) == cpus
