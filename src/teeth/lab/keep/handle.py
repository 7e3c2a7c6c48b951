"""A machine that is up, as a test or a script uses it: plain calls that wait, and say what went wrong."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from teeth.errors import TeethError
from teeth.lab.keep.ssh import CONFIG
from teeth.lab.keep.state import Kept
from teeth.proc import CommandError, run

_ANSWER_SECONDS = 60.0
_SLACK = 15.0  # a keeper's own deadline comes first
_STEP = 0.5
_SSH_FAILED = 255  # ssh(1): its own status when it did not come so far as to run anything
_BANNER = r"Linux version \d|SeaBIOS \(version|BdsDxe: "


class StepError(TeethError):
    """A machine did not do what it was to do."""


@dataclass(slots=True, kw_only=True)
class MachineHandle:
    """One machine. Times are in seconds. Commands run by ssh, as its user, in its shell."""

    kept: Kept
    _life: int = 0
    _seen: int = 0
    _cache: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.kept.name

    @property
    def console_log(self) -> Path:
        """Everything it printed, a line with its time each."""
        return Path(self.kept.facts["console"])

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(self.kept.facts["networks"])

    # --- its power

    def status(self) -> dict[str, Any]:
        """``power``: "on", "off", "paused", ...; ``lives``: how often it was started; ``line``: its last."""
        return self.kept.ask({"do": "status"})

    def power(self, to: str) -> dict[str, Any]:
        """The switch: "on", "off", "cycle", "reset", or "button", which asks the system to end."""
        return self.kept.ask({"do": "power", "to": to}, within=_ANSWER_SECONDS * 2)

    def crash(self) -> None:
        """The power goes at once, and stays away."""
        self.power("off")

    def reset(self) -> None:
        self.power("reset")

    def reboot(self, *, within: float = 300.0) -> None:
        """Let the system restart itself, and wait until firmware or a kernel greets anew."""
        # In the background: the connection may end before the command has.
        self.succeed("command -v reboot >/dev/null && { reboot >/dev/null 2>&1 </dev/null & }")
        self.wait_for(_BANNER, within=within)

    # --- its console

    def wait_for(
        self, what: str | Callable[[], object], *, within: float = 120.0, again: bool = False
    ) -> Any:
        """Wait for a console line in which the regular expression is found: the text of the line.

        Each call goes on behind the line that the one before has found; ``again`` looks from the machine's
        start. A function is called until it returns something true, which is returned. Raises StepError.
        """
        if callable(what):
            return _until(what, within=within, of=self.name)
        request = {
            "do": "wait", "pattern": what, "within": within, "life": self._life,
            "since": 0 if again else self._seen,
        }  # fmt: skip
        try:
            found = self.kept.ask(request, within=within + _SLACK)
        except TeethError as error:
            raise StepError(
                f"{self.name}: {error.message}", hint=f"its console: {self.console_log}"
            ) from error
        self._life, self._seen = found["life"], found["number"] + 1
        return found["text"]

    def type(self, text: str) -> None:
        """Type at the console; a line ends with a newline."""
        self.kept.ask({"do": "type", "text": text})

    def screenshot(self, file: Path | str) -> Path:
        """Its screen as a .png or .ppm."""
        path = Path(file).resolve()
        self.kept.ask({"do": "screenshot", "file": str(path)})
        return path

    # --- commands in it

    def ssh_command(self) -> list[str]:
        """``ssh`` and its arguments, to which a command may be added. TeethError where there is no way."""
        if self.kept.facts["ssh"] is None:
            raise TeethError(
                f"machine {self.name} has no ssh",
                hint="boot the debug ramdisk, or describe [machines.NAME.ssh]",
            )
        return ["ssh", "-F", str(self.kept.folder / CONFIG), self.name]

    def execute(self, command: str, *, within: float = 120.0) -> tuple[int, str]:
        """Exit status and output; of a command that failed the last lines of both streams."""
        try:
            return 0, run([*self.ssh_command(), "--", command], timeout=within)
        except CommandError as error:
            if error.returncode == _SSH_FAILED:
                said = error.tail.strip().splitlines()
                raise StepError(f"{self.name}: ssh: {said[-1] if said else 'it gave no reason'}") from error
            return error.returncode, error.tail

    def succeed(self, command: str, *, within: float = 120.0) -> str:
        """The output of a command that has to succeed. Raises StepError."""
        status, output = self.execute(command, within=within)
        if status != 0:
            raise StepError(f"{self.name}: {command!r} ended with {status}: {_last(output)}")
        return output

    def fail(self, command: str, *, within: float = 120.0) -> str:
        """The output of a command that has to fail. Raises StepError."""
        status, output = self.execute(command, within=within)
        if status == 0:
            raise StepError(f"{self.name}: {command!r} succeeded and was to fail")
        return output

    def wait_for_ssh(self, *, within: float = 300.0) -> None:
        """Until a command can be run in it."""
        self.wait_for(self._answers, within=within)

    def _answers(self) -> bool:
        try:
            return self.execute("true", within=30.0)[0] == 0
        except StepError:
            return False

    @property
    def host(self) -> Any:
        """testinfra's view of the machine: ``machine.host.file("/etc/hostname").content_string``."""
        if "host" not in self._cache:
            try:
                import testinfra
            except ImportError as error:
                raise TeethError("testinfra is not installed", hint="pip install pytest-testinfra") from error
            *_, config, name = self.ssh_command()
            self._cache["host"] = testinfra.get_host(f"ssh://{name}", ssh_config=config)
        return self._cache["host"]

    # --- what else can be done to it

    def qmp(self, command: str, **arguments: object) -> Any:
        """A QMP command; a ``_`` in an argument's name stands for QMP's ``-``."""
        named = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self.kept.ask({"do": "qmp", "command": command, "arguments": named})["return"]

    def fault(self, kind: str, *words: str, off: bool = False) -> None:
        """Let a fault begin or end, as ``teeth lab fault`` does."""
        self.kept.ask({"do": "fault", "kind": kind, "words": words, "off": off}, within=_ANSWER_SECONDS * 2)

    def how_to_enter(self) -> list[str]:
        """Lines for a person who wants to look at it."""
        folder = self.kept.folder.parent
        lines = [f"teeth lab console {self.name} --follow --folder {folder}"]
        if self.kept.facts["ssh"] is not None:
            lines.append(f"teeth lab ssh {self.name} --folder {folder}")
        return [*lines, f"teeth lab down {self.name} --folder {folder}"]


def _until(what: Callable[[], object], *, within: float, of: str) -> object:
    deadline = time.monotonic() + within
    while not (found := what()):
        if time.monotonic() > deadline:
            name = getattr(what, "__name__", "it")
            raise StepError(f"{of}: {name} did not become true within {within:g} s")
        time.sleep(_STEP)
    return found


def _last(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
