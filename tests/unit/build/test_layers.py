"""An initramfs of two archives: as the kernel reads it, as we take it apart, and the same bytes each time."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from teeth.build.budget import BUDGETS, check_budget
from teeth.build.layers import join, pack_paths, split, unpack_archive
from teeth.build.manifest import largest, measure, read_manifest
from teeth.errors import TeethError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="packing as root:root needs root")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc/app").mkdir(parents=True)
    (root / "etc/app/a").write_text("old")
    (root / "etc/app/run").write_text("#!/bin/sh\n")
    (root / "etc/app/run").chmod(0o755)
    (root / "etc/link").symlink_to("app/a")
    (root / "other").write_text("not packed")
    return root


@needs_root
def test_layers_come_apart_and_the_later_one_wins(tree: Path, tmp_path: Path) -> None:
    pack_paths(tree, ["etc"], tmp_path / "1", level=3, epoch=1000)
    (tree / "etc/app/a").write_text("new, longer")
    pack_paths(tree, ["etc/app/a"], tmp_path / "2", level=3, epoch=2000)
    layers = join([("base", tmp_path / "1"), ("top", tmp_path / "2")], tmp_path / "whole")
    assert [layer.offset % 4 for layer in layers] == [0, 0]

    out = tmp_path / "out"
    for archive in split(tmp_path / "whole", layers, tmp_path / "parts"):
        unpack_archive(archive, out)
    assert (out / "etc/app/a").read_text() == "new, longer"
    assert os.access(out / "etc/app/run", os.X_OK)
    assert (out / "etc/link").readlink() == Path("app/a")
    assert not (out / "other").exists()
    assert (out / "etc/app/run").stat().st_mtime == 1000


@needs_root
def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    pack_paths(tree, ["etc"], tmp_path / "1", level=3, epoch=1000)
    os.utime(tree / "etc/app/a", (5, 5))
    pack_paths(tree, ["etc"], tmp_path / "2", level=3, epoch=1000)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_a_file_with_two_names_counts_once(tree: Path) -> None:
    os.link(tree / "etc/app/a", tree / "etc/app/b")
    sizes = measure(tree)
    assert sizes["etc/app/a"] + sizes["etc/app/b"] == 3
    assert sizes["etc/link"] == len("app/a")


def test_contributors_are_summed_by_owner() -> None:
    sizes = {"usr/bin/a": 5, "usr/bin/b": 6, "usr/lib/teeth/x": 7, "etc/y": 1}
    assert largest(sizes, {"usr/bin/a": "tools", "usr/bin/b": "tools"}) == [
        {"name": "tools", "bytes": 11},
        {"name": "teeth-agent", "bytes": 7},
        {"name": "(generated)", "bytes": 1},
    ]


def test_an_incomplete_artefact_has_no_manifest(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text('{"key": "k", "initramfs_bytes": 3, "kernel_bytes": 2}')
    (tmp_path / "initramfs").write_text("abc")
    assert read_manifest(tmp_path) is None
    (tmp_path / "vmlinuz").write_text("ab")
    assert read_manifest(tmp_path) == {"key": "k", "initramfs_bytes": 3, "kernel_bytes": 2}
    (tmp_path / "initramfs").write_text("ab")
    assert read_manifest(tmp_path) is None
    (tmp_path / "manifest.json").write_text("[]")
    assert read_manifest(tmp_path) is None


def test_a_ramdisk_over_its_budget_is_one_line() -> None:
    check_budget("ramdisk", BUDGETS["ramdisk"], "linux")
    check_budget("another", 10**12, "linux")
    with pytest.raises(TeethError, match=r"budget is .* MB \(largest contributor: linux; .*budget\.py\)"):
        check_budget("ramdisk", BUDGETS["ramdisk"] + 1, "linux")
