"""Where a checkout is found, and where things lie in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from teeth import paths
from teeth.errors import UsageError
from teeth.paths import Paths, find_checkout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in ("elements", "image-recipes", "src/deep/er"):
        (tmp_path / "checkout" / name).mkdir(parents=True)
    return tmp_path / "checkout"


def test_everything_written_lies_below_build(checkout: Path) -> None:
    found = Paths(root=checkout)
    written = (found.cache, found.ramdisk, found.guest, found.demo)
    assert {path.parent for path in written} == {found.build}
    assert {path.parent for path in (found.build, found.elements, found.recipes, found.agent)} == {checkout}


def test_from_a_folder_inside(checkout: Path) -> None:
    assert find_checkout(checkout) == find_checkout(checkout / "src/deep/er") == Paths(root=checkout)


def test_the_variable_wins_over_the_package(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEETH_ROOT", str(checkout / "src"))
    assert find_checkout().root == checkout
    monkeypatch.delenv("TEETH_ROOT")
    assert (find_checkout().root / "pyproject.toml").is_file()


def test_the_current_folder_is_the_last_resort(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEETH_ROOT", raising=False)
    monkeypatch.setattr(paths, "__file__", "/nowhere/teeth/paths.py")
    monkeypatch.chdir(checkout / "src")
    assert find_checkout().root == checkout


def test_no_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^no teeth checkout found \(run inside a clone, or set TEETH_ROOT"):
        find_checkout(tmp_path)
    monkeypatch.setenv("TEETH_ROOT", str(tmp_path / "gone"))
    with pytest.raises(UsageError):
        find_checkout()  # a wrong variable is not healed by a checkout that happens to be near
