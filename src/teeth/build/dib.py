"""Driving diskimage-builder: one recipe, one work folder, nothing mounted or looped left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from teeth.build.debs import keep_debs, lend_debs
from teeth.build.recipe import Recipe
from teeth.errors import TeethError
from teeth.proc import background, run

# A build clears up after itself when it is asked to end; it is killed when it has not after this long.
_STOP_SECONDS = 30.0
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.2
_STAMP = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+ \| ?")
_HOOK = re.compile(r"^(?:dib-run-parts )?Running \S*/([a-z-]+\.d/[^/ ]+)$")
_DONE = re.compile(r"^(?:dib-run-parts )?\S*/([a-z-]+\.d/[^/ ]+) completed$")
_NOISE = re.compile(r"^(\+ |Unmount |INFO |DEBUG |Traceback|  |subprocess\.|dib-run-parts |returncode:)")


def build_recipe(
    recipe: Recipe,
    *,
    elements: Path,
    work: Path,
    environment: Mapping[str, str],
    log: Path,
    cache: Path | None = None,
    on_line: Callable[[str], None] | None = None,
) -> None:
    """Build ``recipe`` with diskimage-builder; its outputs appear in ``work``.

    ``work`` must be this build's own folder; it also holds what diskimage-builder keeps for the length of
    the build. ``cache`` (build/cache) is shared by builds: the bootstrapped tree and package files.
    ``environment`` goes to every element; nothing else of the caller's environment does. ``on_line`` gets
    each log line without its time stamp. Raises TeethError naming the hook that failed; on any way out,
    Ctrl-C too, the whole process group is ended and everything mounted below ``work`` unmounted.
    """
    _require_sudo()
    work.mkdir(parents=True, exist_ok=True)
    work = work.resolve()
    kept = (cache or work / "cache").resolve()
    debs = work / "debs"
    lend_debs(kept / "debs", debs)
    variables = _variables(elements=elements, work=work, cache=kept, debs=debs)
    settings = [f"{name}={value}" for name, value in {**variables, **environment}.items()]
    builder = Path(sys.executable).parent / "diskimage-builder"
    # env -i: a build must not depend on what happens to be set in the caller's shell.
    command = ["env", "-i", *settings, f"{builder}", "--stop-on-failure", f"{recipe.path.resolve()}"]
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    follower = _Follower(log, on_line)
    try:
        with background(command, log=log, cwd=work) as process:
            ended = False
            try:
                while process.poll() is None:
                    follower.read()
                    time.sleep(_POLL_SECONDS)
                ended = True
            finally:
                loops = loop_devices(work)
                _end_group(process.pid, process.poll, ask_after=_GRACE_SECONDS if ended else 0)
                release(work)
                _detach(loops)
        follower.read()
        if process.returncode != 0:
            raise TeethError(
                f"building {recipe.name} failed in {follower.hook or 'diskimage-builder'}: {follower.reason}",
                hint=f"the whole log is {log}",
            )
    finally:
        release(work)
        keep_debs(debs, kept / "debs")


def release(folder: Path) -> None:
    """End processes chrooted below ``folder``, unmount all that is mounted there, detach its loop devices."""
    root = f"{folder.resolve()}/"
    _kill_chrooted(root)
    # Loop devices first, while their files still have a path here; a mounted one goes with its mount.
    _detach(loop_devices(folder))
    for target in reversed(_mount_points()):
        if target.startswith(root):
            with contextlib.suppress(TeethError):
                run([*as_root(), "umount", "--lazy", target])


def loop_devices(folder: Path) -> dict[str, str]:
    """``{device name: backing file}`` of the loop devices whose files lie below ``folder``."""
    root = f"{folder.resolve()}/"
    return {name: backing for name, backing in _backing_files().items() if backing.startswith(root)}


def _backing_files() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found[path.parts[3]] = path.read_text().strip().removesuffix(" (deleted)")
    return found


def _detach(devices: Mapping[str, str]) -> None:
    """Detach ``devices`` as far as they still are what they were. Once its file system is unmounted, a
    backing file is shown by what is left of its path."""
    now = _backing_files()
    for name, backing in devices.items():
        if name in now and backing.endswith(now[name]):
            with contextlib.suppress(TeethError):
                run([*as_root(), "losetup", "--detach", f"/dev/{name}"])


def _kill_chrooted(root: str) -> None:
    for entry in Path("/proc").glob("[0-9]*/root"):
        with contextlib.suppress(OSError, TeethError):
            if str(entry.readlink()).startswith(root):
                run([*as_root(), "kill", "-KILL", entry.parts[2]])


def remove_tree(folder: Path) -> None:
    """Delete a build's work folder, files of root too; refuses while something is mounted below it."""
    release(folder)
    if any(target.startswith(f"{folder.resolve()}/") for target in _mount_points()):
        raise TeethError(f"something is still mounted below {folder}", hint="unmount it, then try again")
    if folder.exists():
        if os.geteuid() == 0:
            shutil.rmtree(folder)
        else:
            run([*as_root(), "rm", "-rf", "--one-file-system", folder])


def as_root() -> list[str]:
    """The words before a command that needs root."""
    return [] if os.geteuid() == 0 else ["sudo"]


def _require_sudo() -> None:
    """Raises TeethError when sudo would ask: diskimage-builder calls it where no terminal is, and a password
    that was typed at this one does not count there."""
    if os.geteuid() == 0:
        return
    try:
        run(["setsid", "--wait", "sudo", "-n", "true"], timeout=30)
    except TeethError as error:
        raise TeethError(
            "building images needs root, and sudo asks this user for a password",
            hint="run it as root, or as a user who may sudo without a password (NOPASSWD in sudoers)",
        ) from error


def _variables(*, elements: Path, work: Path, cache: Path, debs: Path) -> dict[str, str]:
    dib_cache, scratch = cache / "dib", work / "tmp"
    for folder in (dib_cache, scratch, work / "home"):
        folder.mkdir(parents=True, exist_ok=True)
    own = Path(sys.executable).parent
    return {
        "PATH": f"{own}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": f"{work / 'home'}",
        "USER": os.environ.get("USER", "root"),
        "LC_ALL": "C.UTF-8",
        "TMPDIR": f"{scratch}",
        "TMP_DIR": f"{scratch}",
        "ELEMENTS_PATH": f"{elements.resolve()}",
        "DIB_IMAGE_CACHE": f"{dib_cache}",
        "DIB_LOCKFILES": f"{dib_cache}",
        "DIB_MIN_TMPFS": "4",  # two copies of a tree of about 1 GB pass through it
        "TEETH_APT_ARCHIVES": f"{debs}",
    }


def _mount_points() -> list[str]:
    """Mount targets, outermost first, with the octal escapes of /proc/mounts undone."""
    lines = Path("/proc/mounts").read_text().splitlines()
    return [re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split()[1]) for line in lines]


def _end_group(leader: int, poll: Callable[[], int | None], *, ask_after: float) -> None:
    """End what is left of the build's process group: first asked, so that it clears up, then killed.

    diskimage-builder's shell traps its end and unmounts; a hook that was cut off may leave children.
    After a build that ended by itself, ``ask_after`` lets its log writer finish the last lines.
    """
    for sign, patience in ((0, ask_after), (signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, 0.0)):
        if sign:
            _signal_group(leader, sign)
        deadline = time.monotonic() + patience
        while True:
            poll()  # reaps the leader, whose zombie would keep the group alive
            if not _group_lives(leader):
                return
            if time.monotonic() >= deadline:
                break
            time.sleep(_POLL_SECONDS)


def _group_lives(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # what is left of it is root's: the build calls sudo
        return True
    return True


def _signal_group(leader: int, sign: int) -> None:
    """To all of a build's processes; those that sudo started are root's, beyond a plain user's signals."""
    if os.geteuid() == 0:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(leader, sign)
    else:
        with contextlib.suppress(TeethError):
            run([*as_root(), "kill", f"-{sign:d}", "--", f"-{leader}"])


class _Follower:
    """Reads a growing log: which hook runs, and the last line that says something."""

    def __init__(self, log: Path, on_line: Callable[[str], None] | None) -> None:
        self._log = log
        self._on_line = on_line
        self._offset = 0
        self._running: list[str] = []
        self._recent: list[str] = []

    @property
    def hook(self) -> str:
        return self._running[-1] if self._running else ""

    @property
    def reason(self) -> str:
        """The last line that looks like an error, else the last line of all."""
        errors = [line for line in self._recent if re.match(r"(?i)(E:|error|.*: error|fatal|.*failed)", line)]
        return (errors or self._recent or ["no output"])[-1]

    def read(self) -> None:
        with self._log.open("rb") as stream:
            stream.seek(self._offset)
            chunk = stream.read()
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(whole)
        for raw in whole.decode(errors="replace").splitlines():
            self._take(_STAMP.sub("", raw).rstrip())

    def _take(self, line: str) -> None:
        if match := _HOOK.match(line):
            self._running.append(match[1])
        elif match := _DONE.match(line):
            self._running = [hook for hook in self._running if hook != match[1]]
        elif line and not _NOISE.match(line):
            self._recent = [*self._recent[-19:], line]
        if self._on_line is not None:
            self._on_line(line)
