"""Kernel attributes below a root."""

from __future__ import annotations

from pathlib import Path

import pytest

from teeth_agent import sysfs


def test_reads(tmp_path: Path) -> None:
    (tmp_path / "sys").mkdir()
    (tmp_path / "sys/name").write_bytes(b" a\xff \n\n")
    (tmp_path / "sys/number").write_text("42\n")
    assert sysfs.read_text(tmp_path, "/sys/name") == "a�"
    assert sysfs.read_text(tmp_path, "sys/number") == "42"
    assert sysfs.read_int(tmp_path, "/sys/number") == 42
    assert sysfs.read_int(tmp_path, "/sys/name") is None
    assert sysfs.names(tmp_path, "/sys") == ["name", "number"]


def test_what_is_not_there(tmp_path: Path) -> None:
    assert sysfs.read_text(tmp_path, "/sys/x") is None
    assert sysfs.read_text(tmp_path, "/sys/x", "d") == "d"
    assert sysfs.read_text(tmp_path, "/") is None  # a folder
    assert sysfs.read_int(tmp_path, "/sys/x") is None
    assert sysfs.names(tmp_path, "/sys/x") == []
    with pytest.raises(OSError, match="x"):
        sysfs.write_text(tmp_path, "/sys/x", "1")


def test_an_endless_attribute_is_cut(tmp_path: Path) -> None:
    (tmp_path / "endless").write_bytes(b"x" * (3 << 20))
    assert len(sysfs.read_text(tmp_path, "endless") or "") == 1 << 20


def test_writes(tmp_path: Path) -> None:
    (tmp_path / "attribute").write_text("0")
    sysfs.write_text(tmp_path, "/attribute", "1")
    assert sysfs.read_int(tmp_path, "/attribute") == 1
