"""scripts/setup on machines that are not fit for it: one clear line, an exit status, nothing changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What the script calls and what every machine has; apt, sudo and the facts of the machine are made up.
COMMON = ("bash", "env", "dirname", "cat", "grep", "awk", "sha256sum", "mktemp", "rm", "tail", "sed")
# In the order in which the script digests them.
STAMPED = ("packages.apt", "pyproject.toml", "agent/pyproject.toml", "constraints.txt", "scripts/setup")
ALL_INSTALLED = "echo 'install ok installed'"
NOTHING_INSTALLED = "exit 1"


class Machine:
    """A copied tree and a PATH of its own. Every call of a made-up tool is written down."""

    def __init__(self, folder: Path) -> None:
        self.tree = folder / "tree"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.calls.touch()
        self.bin.mkdir()
        (self.tree / "scripts").mkdir(parents=True)
        (self.tree / "agent").mkdir()
        for name in (
            "scripts/setup",
            "packages.apt",
            "pyproject.toml",
            "agent/pyproject.toml",
            "constraints.txt",
        ):
            shutil.copy(ROOT / name, self.tree / name)
        for name in COMMON:
            found = shutil.which(name)
            assert found is not None, name
            (self.bin / name).symlink_to(found)
        self.tool("uname", "echo x86_64")
        self.tool("id", "echo 0")
        self.tool("df", "echo header; echo /dev/sda 99999 1 50000 1% /")
        self.tool("dpkg-query", NOTHING_INSTALLED)
        self.tool("apt-get", "exit 0", note=True)
        self.tool("apt-cache", "exit 0", note=True)
        self.tool("python3", f'exec {sys.executable} "$@"')
        self.environment = {"TEETH_MIN_MEMORY_MB": "1"}

    def tool(self, name: str, body: str, *, note: bool = False) -> None:
        file = self.bin / name
        noting = f'echo "{name} $*" >>{self.calls}\n' if note else ""
        file.write_text(f"#!{shutil.which('bash')}\n{noting}{body}\n")
        file.chmod(0o755)

    def without(self, name: str) -> None:
        (self.bin / name).unlink()

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.tree)) for path in self.tree.rglob("*"))

    def setup(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.bin / "bash"), str(self.tree / "scripts/setup")],
            cwd="/", env={"PATH": str(self.bin), "HOME": str(self.tree.parent), **self.environment},
            check=False, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        )  # fmt: skip


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def no_apt(machine: Machine) -> None:
    machine.without("apt-get")


def no_dpkg(machine: Machine) -> None:
    machine.without("dpkg-query")


def other_architecture(machine: Machine) -> None:
    machine.tool("uname", "echo aarch64")


def no_root_no_sudo(machine: Machine) -> None:
    machine.tool("id", "echo 1000")


def sudo_says_no(machine: Machine) -> None:
    machine.tool("id", "echo 1000")
    machine.tool("sudo", "echo 'sudo: a password is required' >&2; exit 1", note=True)


def little_disk(machine: Machine) -> None:
    machine.tool("df", "echo header; echo /dev/sda 99999 1 4321 1% /")


def little_memory(machine: Machine) -> None:
    machine.environment["TEETH_MIN_MEMORY_MB"] = "99999999"


UNFIT: dict[str, tuple[Callable[[Machine], None], str]] = {
    "no apt": (no_apt, "apt was not found: teeth builds on Debian 12/13 or Ubuntu 24.04"),
    "no dpkg": (no_dpkg, "apt was not found: teeth builds on Debian 12/13 or Ubuntu 24.04"),
    "another architecture": (other_architecture, "this is a aarch64 machine"),
    "not root and no sudo": (no_root_no_sudo, "not root and no sudo: run as root, or install sudo"),
    "little disk": (little_disk, "4321 MB free here, 10000 MB needed: free some space"),
    "little memory": (little_memory, "MB of memory, 99999999 MB needed: use a larger machine"),
}


@pytest.mark.parametrize(("spoil", "words"), UNFIT.values(), ids=UNFIT.keys())
def test_one_clear_line_and_nothing_changed(
    machine: Machine, spoil: Callable[[Machine], None], words: str
) -> None:
    spoil(machine)
    before = machine.files()
    done = machine.setup()
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: ")
    assert words in line
    assert machine.files() == before
    assert machine.calls.read_text() == ""


def test_a_sudo_that_says_no(machine: Machine) -> None:
    sudo_says_no(machine)
    before = machine.files()
    done = machine.setup()
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("setup: sudo did not let us in: run as root")
    assert machine.files() == before
    assert {line.split()[0] for line in machine.calls.read_text().splitlines()} == {"sudo"}


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('case "$*" in *update*) echo "E: no network" >&2; exit 100;; esac', "apt-get update failed"),
        ('case "$*" in *install*) echo "E: no space" >&2; exit 100;; esac', "apt-get install failed"),
    ],
)
def test_apt_that_fails_is_quoted(machine: Machine, script: str, words: str) -> None:
    machine.tool("apt-get", script, note=True)
    before = machine.files()
    done = machine.setup()
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith("E: no ")
    assert done.stderr.splitlines()[-1] == f"setup: {words}: see the lines above"
    assert machine.files() == before


def test_a_package_that_no_source_knows_is_named(machine: Machine) -> None:
    (machine.tree / "packages.apt").write_text("# comment\nbash # installed\nfoo-x|bar-y # neither\n")
    machine.tool("dpkg-query", '[ "${*: -1}" = bash ] && echo "install ok installed"')
    machine.tool("apt-cache", "exit 100")
    done = machine.setup()
    assert done.returncode == 1
    assert done.stderr == "setup: no package for 'foo-x|bar-y' in this machine's apt sources\n"
    assert "install" not in machine.calls.read_text().replace("apt-get -q -o", "")


def test_only_what_is_missing_is_installed_and_of_two_names_the_known_one(machine: Machine) -> None:
    (machine.tree / "packages.apt").write_text("aaa # here\nbbb # not here\nold|new # renamed\n")
    machine.tool("dpkg-query", '[ "${*: -1}" = aaa ] && echo "install ok installed"')
    machine.tool("apt-cache", '[ "${*: -1}" != old ]')
    machine.tool("apt-get", 'case "$*" in *install*) exit 9;; esac', note=True)
    machine.setup()
    (install,) = [line for line in machine.calls.read_text().splitlines() if " install " in line]
    assert install.split(" install ")[1] == "-y --no-install-recommends bbb new"


def test_a_user_with_sudo_installs_through_it(machine: Machine) -> None:
    machine.tool("id", "echo 1000")
    machine.tool("sudo", '[ "$1" = -n ] || exec "$@"', note=True)
    machine.tool("apt-get", "exit 100", note=True)
    assert machine.setup().returncode == 1
    calls = machine.calls.read_text().splitlines()
    assert calls[0] == "sudo -n true"
    assert calls[1].startswith("sudo env DEBIAN_FRONTEND=noninteractive apt-get")


def test_a_second_run_does_nothing(machine: Machine) -> None:
    machine.tool("dpkg-query", ALL_INSTALLED)
    stamp = machine.tree / ".venv/.teeth-setup"
    stamp.parent.mkdir()
    whole = b"".join((machine.tree / part).read_bytes() for part in STAMPED)
    done = subprocess.run(["sha256sum"], input=whole, capture_output=True, check=True)
    stamp.write_bytes(done.stdout)
    machine.without("python3")  # it does not even look
    before = (machine.files(), stamp.stat().st_mtime_ns)
    done_setup = machine.setup()
    assert (done_setup.returncode, done_setup.stdout, done_setup.stderr) == (0, "", "")
    assert (machine.files(), stamp.stat().st_mtime_ns) == before
    assert machine.calls.read_text() == ""
