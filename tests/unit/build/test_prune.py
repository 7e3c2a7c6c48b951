"""What stays in the ramdisk: decided from package lists, rules and module dependencies."""

from __future__ import annotations

from pathlib import Path

import pytest

from teeth.build.modules import choose_modules, module_name, read_dependencies, read_soft
from teeth.build.packages import closure, file_owners, read_packages
from teeth.build.prune import Tree, choose_files, delete, drop_orphans, scan
from teeth.build.rules import DropRules, matcher, read_drop_rules
from teeth.errors import UsageError

STATUS = """\
Package: app
Status: install ok installed
Version: 1:2-3
Depends: liba (>= 1), mail-agent | other, tool:any [amd64]
Description: first
 Depends: not-this

Package: liba
Status: install ok installed
Version: 1
Pre-Depends: libb

Package: libb
Status: install ok installed
Version: 2

Package: postbox
Status: install ok installed
Version: 3
Provides: mail-agent (= 3), other-thing

Package: tool
Status: install ok installed
Version: 4
Depends: loop

Package: loop
Status: install ok installed
Version: 5
Depends: tool

Package: gone
Status: deinstall ok config-files
Version: 6

Package: unrelated
Status: install ok installed
Version: 7
"""


def test_dependencies_are_followed_through_alternatives_and_provides() -> None:
    packages = read_packages(STATUS)
    assert "gone" not in packages
    assert packages["app"].version == "1:2-3"
    assert closure(packages, {"app"}) == {"app", "liba", "libb", "postbox", "tool", "loop"}
    assert closure(packages, {"app"}, without={"liba", "tool"}) == {"app", "postbox"}
    assert closure(packages, {"mail-agent"}) == {"postbox"}


def test_owners_know_the_merged_usr(tmp_path: Path) -> None:
    info = tmp_path / "var/lib/dpkg/info"
    info.mkdir(parents=True)
    (info / "a.list").write_text("/.\n/bin\n/bin/tool\n/usr/share\n")
    (info / "b:amd64.list").write_text("/usr/share\n/lib/libb.so\n")
    owners = file_owners(tmp_path, {"b"})
    assert owners["usr/bin/tool"] == "a"
    assert owners["usr/lib/libb.so"] == "b"
    assert owners["usr/share"] == "b"


@pytest.mark.parametrize(
    ("glob", "path", "matches"),
    [
        ("usr/share/doc", "usr/share/doc/a/b", True),
        ("usr/share/doc", "usr/share/doc", True),
        ("usr/share/doc", "usr/share/docs/a", False),
        ("usr/lib/*/gconv", "usr/lib/x86_64/gconv/a.so", True),
        ("etc/*-", "etc/passwd-", True),
        ("etc/*-", "etc/passwd", False),
    ],
)
def test_globs(glob: str, path: str, matches: bool) -> None:
    assert bool(matcher(["nothing", glob]).fullmatch(path)) is matches


def test_no_globs_match_nothing() -> None:
    assert not matcher([]).fullmatch("")


def test_rules_are_merged_and_a_bad_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "10-a").write_text("# reason\npackage perl-base\n\npath usr/share/doc # inline\n")
    (tmp_path / "20-b").write_text("path tmp/*\npackage libsystemd0\n")
    (tmp_path / "30-c").write_text("keep libsystemd0\n")
    rules = read_drop_rules(tmp_path)
    assert rules == DropRules(packages=frozenset({"perl-base"}), paths=("usr/share/doc", "tmp/*"))
    (tmp_path / "20-b").write_text("\npath /absolute\n")
    with pytest.raises(UsageError, match="20-b, line 2: 'path /absolute'"):
        read_drop_rules(tmp_path)


DEP = """\
kernel/fs/ext4/ext4.ko.xz: kernel/fs/jbd2/jbd2.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
kernel/crypto/crc32c-generic.ko.xz:
kernel/drivers/gpu/drm/drm.ko.xz:
kernel/drivers/net/ethernet/x/x.ko.xz: kernel/drivers/net/mii.ko.xz
kernel/drivers/net/mii.ko.xz:
"""


def test_modules_bring_what_they_need_hard_and_soft() -> None:
    needs, soft = read_dependencies(DEP), read_soft("# x\nsoftdep ext4 pre: crc32c_generic post: absent\n")
    assert choose_modules(needs, soft, ["fs/ext4"]) == {
        "kernel/fs/ext4/ext4.ko.xz",
        "kernel/fs/jbd2/jbd2.ko.xz",
        "kernel/crypto/crc32c-generic.ko.xz",
    }
    assert module_name("kernel/fs/nls/nls_iso8859-1.ko.xz") == "nls_iso8859_1"


def test_a_file_goes_with_its_package_its_rule_or_its_module() -> None:
    files = [
        "usr/bin/kept", "usr/bin/gone", "etc/generated", "usr/share/doc/kept/x",
        "usr/lib/modules/6/kernel/a.ko.xz", "usr/lib/modules/6/kernel/b.ko.xz",
        "usr/lib/python3.13/os.py", "usr/lib/python3.13/os.pyc", "usr/lib/python3.13/data.py",
        "usr/lib/python3.13/__pycache__/os.cpython-313.pyc", "usr/lib/python3/dist-packages/lib/x.pyc",
        "usr/lib/python3/dist-packages/gone/y.pyc",
    ]  # fmt: skip
    tree = Tree(files=dict.fromkeys(files, 1), folders=frozenset())
    owners = {
        "usr/bin/kept": "kept", "usr/bin/gone": "gone", "usr/share/doc/kept/x": "kept",
        "usr/lib/modules/6/kernel/a.ko.xz": "kept", "usr/lib/modules/6/kernel/b.ko.xz": "kept",
        "usr/lib/python3.13/os.py": "kept", "usr/lib/python3/dist-packages/gone/y.py": "gone",
    }  # fmt: skip
    rules = DropRules(packages=frozenset(), paths=("usr/share/doc",))
    stay = choose_files(tree, owners, {"kept"}, rules, {"usr/lib/modules/6/kernel/a.ko.xz"})
    assert stay == {
        "usr/bin/kept": "kept",
        "etc/generated": "(generated)",
        "usr/lib/modules/6/kernel/a.ko.xz": "kept",
        "usr/lib/python3.13/os.pyc": "kept",
        "usr/lib/python3.13/data.py": "(generated)",
        "usr/lib/python3/dist-packages/lib/x.pyc": "lib",
    }


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/share/empty/deep").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "usr/bin/shell").write_bytes(b"\x7fELF")
    for name, text in (
        ("ok", "#!/bin/shell\n"),
        ("perly", "#!/usr/bin/perl -w\n"),
        ("env", "#!/usr/bin/env py\n"),
    ):
        (tmp_path / "usr/bin" / name).write_text(text)
        (tmp_path / "usr/bin" / name).chmod(0o755)
    (tmp_path / "usr/bin/alias").symlink_to("perly")
    (tmp_path / "usr/bin/alias2").symlink_to("/bin/alias")
    (tmp_path / "usr/bin/good").symlink_to("/bin/ok")
    (tmp_path / "usr/mtab").symlink_to("/proc/self/mounts")
    return tmp_path


def test_scripts_without_interpreter_and_links_to_nothing_go(root: Path) -> None:
    tree = scan(root)
    stay = dict.fromkeys(tree.files, "x")
    drop_orphans(root, stay)
    assert set(stay) == {"bin", "usr/mtab", *(f"usr/bin/{name}" for name in ("shell", "ok", "good"))}
    delete(root, tree, stay)
    assert sorted(path.name for path in (root / "usr/bin").iterdir()) == ["good", "ok", "shell"]
    assert not (root / "usr/share").exists()
