"""Content keys: what changes them and what must not."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from teeth.cache import content_key, file_digest, tree_files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "one/tree"
    (root / "sub").mkdir(parents=True)
    (root / "a").write_text("a")
    (root / "sub/b").write_text("b")
    (root / "link").symlink_to("a")
    return root


def key(tree: Path, **facts: str) -> str:
    return content_key([tree], facts)


def test_a_copy_elsewhere_has_the_same_key(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "two/tree"
    shutil.copytree(tree, copy, symlinks=True)
    assert key(copy) == key(tree)
    assert key(copy, a="1", b="2") == key(tree, b="2", a="1")


CHANGES: dict[str, Callable[[Path], object]] = {
    "bytes": lambda t: (t / "a").write_text("A"),
    "a name": lambda t: (t / "a").rename(t / "c"),
    "a new file": lambda t: (t / "new").write_text(""),
    "a file gone": lambda t: (t / "sub/b").unlink(),
    "executable": lambda t: (t / "a").chmod(0o755),
    "a link's target": lambda t: ((t / "link").unlink(), (t / "link").symlink_to("sub/b")),
    "a link become a file": lambda t: ((t / "link").unlink(), (t / "link").write_text("a")),
    "a link to nothing": lambda t: (t / "dead").symlink_to("nowhere"),
    "a file moved": lambda t: (t / "sub/b").rename(t / "b"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_changes_the_key(tree: Path, change: Callable[[Path], object]) -> None:
    before = key(tree)
    change(tree)
    assert key(tree) != before


def test_caches_and_time_stamps_do_not_count(tree: Path) -> None:
    before = key(tree)
    for name in ("__pycache__/a.pyc", "sub/__pycache__/b.pyc", "x.egg-info/PKG-INFO", ".mypy_cache/x"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text("x")
    (tree / "a").touch()
    assert key(tree) == before


def test_facts_count(tree: Path) -> None:
    keys = {key(tree), key(tree, a="1"), key(tree, a="2"), key(tree, b="1"), key(tree, a="1", b="1")}
    assert len(keys) == 5


def test_a_fact_cannot_pretend_to_be_two(tree: Path) -> None:
    for name, value in (("a", "1\nfact\0b\x002"), ("a\0x", "")):
        with pytest.raises(ValueError, match="a NUL in the fact"):
            content_key([tree], {name: value})
    assert key(tree, a="1\nfact b 2") != key(tree, a="1", b="2")


def test_a_name_that_is_not_utf_8(tree: Path) -> None:
    before = key(tree)
    (tree / os.fsdecode(b"\xff")).write_text("x")
    assert key(tree) != before


def test_a_single_file_and_a_linked_root(tree: Path, tmp_path: Path) -> None:
    assert tree_files(tree / "a") == [tree / "a"]
    assert content_key([tree / "a"], {}) != content_key([tree / "sub/b"], {})
    linked = tmp_path / "linked"
    linked.symlink_to(tree)
    assert tree_files(linked) == [linked]


def test_file_digest(tree: Path) -> None:
    assert file_digest(tree / "a") == "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert file_digest(tree / "a", "md5") == "0cc175b9c0f1b6a831c399e269772661"
