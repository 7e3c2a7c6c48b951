"""Driving a build: the failing hook is named, package files are kept, nothing is left mounted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from teeth.build import dib
from teeth.build.debs import keep_debs, lend_debs
from teeth.build.dib import build_recipe, loop_devices, release
from teeth.build.locks import only_one
from teeth.build.recipe import load_recipe
from teeth.errors import TeethError

PREAMBLE = "#!/bin/bash\nset -eu\n"


@pytest.fixture
def elements(tmp_path: Path) -> Path:
    """One element that makes a tree without any download, so that diskimage-builder itself can run."""
    element = tmp_path / "elements/tiny"
    (element / "root.d").mkdir(parents=True)
    (element / "README.rst").write_text("tiny\n")
    (element / "element-provides").write_text("operating-system\n")
    return element.parent


def hook(elements: Path, name: str, body: str) -> None:
    path = elements / "tiny" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(PREAMBLE + body)
    path.chmod(0o755)


def build(tmp_path: Path, elements: Path, lines: list[str]) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("- imagename: tiny\n  skip-base: true\n  elements: [tiny, no-final-image]\n")
    build_recipe(
        load_recipe(recipe, elements=elements),
        elements=elements,
        work=tmp_path / "work",
        environment={"TEETH_GREETING": "hello"},
        log=tmp_path / "log",
        on_line=lines.append,
    )


def test_a_failed_hook_is_named_with_its_last_words(tmp_path: Path, elements: Path) -> None:
    hook(elements, "root.d/10-tiny-good", "true\n")
    hook(elements, "root.d/20-tiny-bad", 'echo "ERROR: $TEETH_GREETING, ${HOME##*/}"\nexit 3\n')
    lines: list[str] = []
    with pytest.raises(TeethError) as caught:
        build(tmp_path, elements, lines)
    assert caught.value.message == "building tiny failed in root.d/20-tiny-bad: ERROR: hello, home"
    assert str(tmp_path / "log") in caught.value.hint
    assert "ERROR: hello, home" in lines
    assert "ERROR: hello, home" in (tmp_path / "log").read_text()


def test_the_callers_variables_stay_outside(
    tmp_path: Path, elements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIB_STRAY", "1")
    hook(elements, "root.d/10-tiny", 'echo "ERROR: ${DIB_STRAY:-clean}"\nexit 1\n')
    with pytest.raises(TeethError, match="ERROR: clean"):
        build(tmp_path, elements, [])


def running() -> Iterator[bytes]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            yield path.read_bytes()


def test_an_interrupted_build_leaves_nothing_mounted(tmp_path: Path, elements: Path) -> None:
    hook(elements, "root.d/10-tiny-wait", "echo reached\nexec sleep 300123\n")

    class Interrupt(list[str]):
        def append(self, line: str) -> None:
            if line == "reached":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, elements, Interrupt())
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert loop_devices(tmp_path) == {}
    assert [words for words in running() if b"sleep\x00300123" in words] == []


def test_what_sudo_started_is_ended_for_a_plain_user_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain user's signal does not reach root's processes: then killpg says "not permitted"."""
    sudo, real = tmp_path / "sudo", os.killpg
    sudo.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\nexec "$@"\n')
    sudo.chmod(0o755)

    def killpg(leader: int, sign: int) -> None:
        real(leader, 0)
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(dib.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(dib.os, "killpg", killpg)
    with subprocess.Popen(["sh", "-c", "sleep 300124 & wait"], start_new_session=True) as process:
        dib._end_group(process.pid, process.poll, ask_after=0)
        assert process.wait(10) == -signal.SIGTERM
    assert (tmp_path / "asked").read_text() == f"kill -15 -- -{process.pid}\n"
    assert [words for words in running() if b"sleep\x00300124" in words] == []


def test_a_sudo_that_would_ask_is_said_before_anything_is_made(
    tmp_path: Path, elements: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sudo = tmp_path / "bin" / "sudo"
    sudo.parent.mkdir()
    sudo.write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    sudo.chmod(0o755)
    monkeypatch.setenv("PATH", f"{sudo.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(dib.os, "geteuid", lambda: 1000)
    with pytest.raises(TeethError, match="sudo asks this user for a password"):
        build(tmp_path, elements, [])
    assert not (tmp_path / "work").exists()


def test_releasing_a_folder_with_nothing_in_it_is_quiet(tmp_path: Path) -> None:
    release(tmp_path)


def test_package_files_are_lent_and_kept(tmp_path: Path) -> None:
    store, view = tmp_path / "store", tmp_path / "view"
    store.mkdir()
    (store / "a_1_amd64.deb").write_text("a1")
    (store / "ab_1_amd64.deb").write_text("ab1")
    lend_debs(store, view)
    assert sorted(path.name for path in view.glob("*.deb")) == ["a_1_amd64.deb", "ab_1_amd64.deb"]
    (view / "a_2_amd64.deb").write_text("a2")
    (view / "partial" / "c_1_amd64.deb").write_text("cut off")
    (view / "ab_1_amd64.deb").unlink()  # what a build throws away is kept all the same
    keep_debs(view, store)
    assert {path.name: path.read_text() for path in store.iterdir()} == {
        "a_2_amd64.deb": "a2",
        "ab_1_amd64.deb": "ab1",
    }


def test_a_second_build_waits_and_says_so(tmp_path: Path) -> None:
    waiting, entered = threading.Event(), threading.Event()
    said: list[str] = []

    def second() -> None:
        with only_one(tmp_path / "x.lock", lambda line: (said.append(line), waiting.set())[1]):
            entered.set()

    with only_one(tmp_path / "x.lock", said.append):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        assert not entered.is_set()
    thread.join(10)
    assert entered.is_set()
    assert said == ["waiting for another build (x.lock)"]
