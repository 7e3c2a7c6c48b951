"""Every element is documented, linted and laid out as diskimage-builder wants it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ELEMENTS = ROOT / "elements"
# Of diskimage-builder's documentation (developer/developing_elements), in the order they run.
PHASES = {
    *("root.d", "extra-data.d", "pre-install.d", "install.d", "post-install.d", "post-root.d"),
    *("block-device.d", "pre-finalise.d", "finalise.d", "cleanup.d"),
}
OUTSIDE = {"root.d", "extra-data.d", "post-root.d", "block-device.d", "pre-finalise.d", "cleanup.d"}


def elements() -> list[Path]:
    return sorted(path for path in ELEMENTS.iterdir() if path.is_dir())


def hooks() -> Iterator[Path]:
    for element in elements():
        for phase in sorted(PHASES):
            yield from sorted((element / phase).glob("*"))


def ids(path: Path) -> str:
    return str(path.relative_to(ELEMENTS))


@pytest.mark.parametrize("element", elements(), ids=ids)
def test_an_element_says_what_it_is_for(element: Path) -> None:
    readme = (element / "README.rst").read_text()
    assert element.name in readme.splitlines()[:3]
    for variable in set(re.findall(r"TEETH_[A-Z_]+", "".join(_texts(element)))):
        assert variable in "".join(path.read_text() for path in ELEMENTS.glob("*/README.rst")), variable


def _texts(element: Path) -> Iterator[str]:
    for path in element.rglob("*"):
        if path.is_file() and path.parent.name in PHASES | {"environment.d"}:
            yield path.read_text()


@pytest.mark.parametrize("element", elements(), ids=ids)
def test_dependencies_are_sorted_and_exist(element: Path) -> None:
    from diskimage_builder.paths import get_path

    deps = element / "element-deps"
    names = deps.read_text().split() if deps.is_file() else []
    assert names == sorted(names)
    assert all((ELEMENTS / name).is_dir() or (Path(get_path("elements")) / name).is_dir() for name in names)


@pytest.mark.parametrize("hook", list(hooks()), ids=ids)
def test_a_hook_is_executable_traced_and_named_after_its_element(hook: Path) -> None:
    text = hook.read_text()
    assert os.access(hook, os.X_OK)
    assert text.startswith("#!/bin/bash\n# ")  # and its second line says what it does
    assert "DIB_DEBUG_TRACE" in text
    assert "set -eu" in text
    # All elements share one folder of hooks.
    assert re.fullmatch(rf"\d\d-{hook.parent.parent.name}.*", hook.name)


@pytest.mark.parametrize("hook", [hook for hook in hooks() if hook.parent.name in OUTSIDE], ids=ids)
def test_a_hook_outside_the_tree_refuses_to_work_on_the_host(hook: Path) -> None:
    """With an empty TARGET_ROOT, ``rm $TARGET_ROOT/etc`` is the host's /etc."""
    assert re.search(r'\[ -n "\$(TARGET_ROOT|TMP_MOUNT_PATH|root)" \]', hook.read_text())


def test_environment_files_are_not_executable() -> None:
    files = [path for element in elements() for path in (element / "environment.d").glob("*")]
    assert files
    assert [path for path in files if os.access(path, os.X_OK)] == []


def test_package_lists_parse_and_hold_names_only() -> None:
    lists = sorted(ELEMENTS.glob("*/package-installs.yaml"))
    assert lists
    for path in lists:
        assert all(isinstance(name, str) for name in yaml.safe_load(path.read_text())), path


# Their rules and daemons assemble what they find on disks.
ASSEMBLERS = {
    *("mdadm", "dmsetup", "lvm2", "multipath-tools", "kpartx", "cryptsetup", "bcache-tools"),
    *("zfsutils-linux", "dmraid", "open-iscsi", "btrfs-progs", "systemd"),
}


def test_only_the_debug_ramdisk_has_what_can_assemble_disks() -> None:
    """And even there none of the rules and scripts that would do so by themselves."""
    lists = {
        path.parent.name: set(yaml.safe_load(path.read_text()))
        for path in ELEMENTS.glob("*/package-installs.yaml")
    }
    assert {name for name, packages in lists.items() if packages & ASSEMBLERS} <= {
        "teeth-debug",
        "teeth-guest",
    }
    recipe = yaml.safe_load((ROOT / "image-recipes/ramdisk.yaml").read_text())
    assert not {"teeth-debug", "teeth-guest"} & set(recipe[0]["elements"])
    dropped = (ELEMENTS / "teeth-debug/ramdisk-drop.d/50-teeth-debug").read_text().splitlines()
    assert {"path usr/lib/udev/rules.d/*md-*", "path usr/lib/udev/rules.d/*dm*"} <= set(dropped)


def test_no_element_names_a_host() -> None:
    for path in ELEMENTS.rglob("*"):
        if path.is_file():
            assert not re.search(r"https?://", path.read_text()), path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout of its own with only what the lint reads."""
    shutil.copytree(ELEMENTS, tmp_path / "elements")
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/lint-elements", tmp_path / "scripts")
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def lint(checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [checkout / "scripts/lint-elements"], capture_output=True, text=True, check=False, timeout=120
    )


def test_the_lint_is_silent_on_what_we_have(copy: Path) -> None:
    done = lint(copy)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_lint_finds_what_dib_lint_finds(copy: Path) -> None:
    (copy / "elements/teeth-kexec/README.rst").unlink()
    done = lint(copy)
    assert done.returncode != 0
    assert "teeth-kexec lacks a README.rst" in done.stdout


def test_the_lint_finds_what_shellcheck_finds(copy: Path) -> None:
    script = copy / "elements/teeth-ramdisk-base/ramdisk-files/usr/libexec/teeth/shutdown"
    script.write_text(script.read_text() + "rm -r $unquoted/*\n")
    done = lint(copy)
    assert done.returncode != 0
    assert "SC2086" in done.stdout
