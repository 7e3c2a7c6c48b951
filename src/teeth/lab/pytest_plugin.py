"""Machines for pytest: ``pytest_plugins = ["teeth.lab.pytest_plugin"]`` in a project's own conftest.py.

    def test_it_boots(lab):
        web = lab.machine('''
            [machines.web]
            boot = { from = "ramdisk", ramdisk = "debug" }
        ''')
        web.wait_for_ssh()
        assert web.succeed("hostname") == "teeth\\n"

Every machine and network ends with the test. Its logs lie in build/lab-tests/FILE.TEST/MACHINE and stay when
the test fails; with ``--keep`` a failed test's machines stay up too, and the report says how to enter them.
"""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from teeth.lab.keep.handle import MachineHandle
    from teeth.lab.keep.state import Kept

_FAILED = pytest.StashKey[bool]()
_LAB = pytest.StashKey["Lab"]()
_TAIL = 40  # console lines shown with a failure


@dataclass(slots=True, kw_only=True)
class Lab:
    """What one test has up. ``state`` is the folder with a folder for each machine."""

    state: Path
    base: Path
    _found: dict[Path, Kept] = field(default_factory=dict)

    def up(self, description: str | Path, *, overcommit: bool = False) -> Mapping[str, MachineHandle]:
        """Start what a TOML text or file describes: its machines by name. Paths in a text are relative to the
        test's own folder. Raises TeethError."""
        from teeth.lab.describe import parse
        from teeth.lab.keep.handle import MachineHandle
        from teeth.lab.keep.up import places_for, up
        from teeth.lab.tables import read_toml
        from teeth.paths import find_checkout

        file = description if isinstance(description, Path) else self.base / "description"
        document = read_toml(file) if isinstance(description, Path) else tomllib.loads(description)
        places, chosen = places_for(find_checkout(), self.state, file)
        found = up(parse(document, places), document, places, chosen, overcommit=overcommit)
        self._found.update((kept.folder, kept) for kept in found)
        return {kept.name: MachineHandle(kept=kept) for kept in found if kept.kind == "machine"}

    def machine(self, description: str | Path) -> MachineHandle:
        """The one machine that is described."""
        (found,) = self.up(description).values()
        return found

    def network(self, name: str) -> Kept:
        """A network that is up; ``facts["namespace"]`` is its network namespace."""
        return next(kept for kept in self._found.values() if kept.kind == "network" and kept.name == name)

    def down(self) -> None:
        """End all of it, machines first."""
        from teeth.lab.keep.up import down

        for kept in sorted(self._found.values(), key=lambda kept: kept.kind):
            down(kept)
        self._found.clear()

    def sections(self, *, keep: bool) -> list[tuple[str, str]]:
        """What a failure's report shows of each machine."""
        from teeth.lab.keep.handle import MachineHandle

        found = []
        for kept in self._found.values():
            if kept.kind != "machine":
                continue
            handle = MachineHandle(kept=kept)
            if handle.console_log.is_file():
                lines = handle.console_log.read_text(errors="replace").splitlines()[-_TAIL:]
                found.append((f"end of {handle.console_log}", "\n".join(lines)))
            if keep:
                found.append((f"machine {kept.name} is still up", "\n".join(handle.how_to_enter())))
        return found


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("teeth").addoption(
        "--keep", action="store_true", dest="lab_keep", help="leave the lab machines of failed tests up"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Remember a failure for the fixture's end, and show with it what the machines last said."""
    report = yield
    if report.failed:
        item.stash[_FAILED] = True
        if (one := item.stash.get(_LAB, None)) is not None:
            report.sections += one.sections(keep=item.config.getoption("lab_keep"))
    return report


@pytest.fixture
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    """A lab of the test's own."""
    from teeth.paths import find_checkout

    # With the file's name: tests of one name in two files may run at the same time.
    name = re.sub(r"[^\w.-]+", "-", f"{request.node.path.stem}.{request.node.name}").strip("-")
    one = Lab(state=find_checkout().build / "lab-tests" / name, base=tmp_path)
    _clear(one.state)
    request.node.stash[_LAB] = one
    try:
        yield one
    finally:
        failed = request.node.stash.get(_FAILED, False)
        if not (failed and request.config.getoption("lab_keep")):
            one.down()
        if not failed:
            shutil.rmtree(one.state, ignore_errors=True)


def _clear(state: Path) -> None:
    """End what an earlier run of this test has left up, and remove its logs."""
    from teeth.lab.keep.state import LabFolder
    from teeth.lab.keep.up import down

    for kept in LabFolder(root=state).kept():
        down(kept)
    shutil.rmtree(state, ignore_errors=True)
