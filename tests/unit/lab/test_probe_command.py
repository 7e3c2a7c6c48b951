"""``teeth lab probe``: which kernel it takes, and what it says when there is nothing to run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from teeth.cli.lab import lab, probe_kernel
from teeth.errors import TeethError
from teeth.paths import Paths


def test_the_built_kernel_comes_first_then_the_hosts_newest(tmp_path: Path) -> None:
    paths = Paths(root=tmp_path)
    boot = tmp_path / "boot"
    boot.mkdir()
    assert probe_kernel(paths, boot) is None
    for name, age in (("vmlinuz-1", 200), ("vmlinuz-2", 100)):
        (boot / name).touch()
        os.utime(boot / name, (1000 - age, 1000 - age))
    assert probe_kernel(paths, boot) == boot / "vmlinuz-2"
    paths.ramdisk.mkdir(parents=True)
    (paths.ramdisk / "vmlinuz").touch()
    assert probe_kernel(paths, boot) == paths.ramdisk / "vmlinuz"


def test_every_fact_has_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "qemu-system-x86_64"
    program.write_text('#!/bin/sh\necho "QEMU emulator version 9.9 (x)"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("TEETH_ACCEL", "tcg")
    result = CliRunner().invoke(lab, ["probe"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "accelerator   tcg: TEETH_ACCEL says so"
    assert "qemu          9.9 (x)" in lines
    assert any(line.startswith("memory ") and line.endswith(" MiB available") for line in lines)


def test_a_missing_qemu_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = CliRunner().invoke(lab, ["probe"])
    assert isinstance(result.exception, TeethError)
    assert str(result.exception) == "QEMU (qemu-system-x86_64) is not installed (run make setup)"
    assert result.output == ""
