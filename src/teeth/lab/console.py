"""A machine's serial console: clean timed lines, waiting for one of them, and what firmware said there."""

from __future__ import annotations

import asyncio
import codecs
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TextIO

from teeth.errors import TeethError

_LINE_MAX = 4096  # characters; a guest that never ends its line must not fill memory
_LINES_MAX = 50_000  # lines kept; a boot prints one to two thousand
# Firmware paints its screen: what moves the cursor to another row or clears the screen ends a line, every
# other control sequence is dropped. ECMA-48 5.4 (CSI), 5.6 (strings), 5.5 (others).
_BREAK = re.compile(r"\x1b\[[0-9;]*[HfJ]|\r?\n|\r|\x0b|\x0c")
_DROP = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-Z\\`-~]"
    r"|[\x00-\x08\x0e-\x1f\x7f]"
)
_CUT = re.compile(  # a sequence not yet whole; \Z, because $ also matches before a last newline
    r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?|[ -/]*)?\Z|\r\Z"
)


class WaitError(TeethError):
    """A console line that was waited for did not come."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line; ``at`` is in seconds since the machine was started."""

    number: int
    at: float
    text: str


class Banner(Enum):
    """Which program introduced itself on the console."""

    SEABIOS = "seabios"
    UEFI = "uefi"
    IPXE = "ipxe"
    LINUX = "linux"


_BANNERS = {
    Banner.SEABIOS: re.compile(r"SeaBIOS \(version"),
    # OVMF has no greeting. Its boot manager announces what it starts from disk or network, and a kernel's
    # EFI stub speaks only when firmware started it: kexec enters behind the stub.
    Banner.UEFI: re.compile(r"BdsDxe: (starting|loading|failed to|No bootable option)|^EFI stub: "),
    Banner.IPXE: re.compile(r"^iPXE \d.* -- Open Source Network Boot Firmware"),
    Banner.LINUX: re.compile(r"^(\[ *0\.000000\] )?Linux version \d"),
}

# After these nothing more will come: waiting on would only spend the deadline.
GIVE_UP = (
    "No bootable device",
    "No bootable option or device was found",
    "Kernel panic - not syncing",
    "end Kernel panic",
)


def find_banners(lines: Iterable[Line]) -> list[tuple[Banner, Line]]:
    """Every greeting of firmware, loader and kernel, in order."""
    return [(kind, line) for line in lines for kind, pattern in _BANNERS.items() if pattern.search(line.text)]


def kernel_without_firmware(lines: Iterable[Line]) -> bool:
    """Whether a second kernel greeted after the first with no firmware or loader in between: a kexec.

    Firmware may be silent (UEFI and a kernel with ``quiet``): ask Qmp.resets() as well.
    """
    kinds = [kind for kind, _ in find_banners(lines)]
    return any(pair == (Banner.LINUX, Banner.LINUX) for pair in itertools.pairwise(kinds))


class LineSplitter:
    """Bytes in, clean lines out, however the bytes are cut."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""

    @property
    def partial(self) -> str:
        """What stands on the line that has not ended: a prompt, perhaps."""
        return _DROP.sub("", _CUT.sub("", self._text))

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes, without control characters and trailing blanks."""
        text = self._text + self._decoder.decode(data)
        cut = _CUT.search(text)
        body, rest = (
            (text[: cut.start()], cut.group()) if cut and len(cut.group()) < _LINE_MAX else (text, "")
        )
        *whole, last = _BREAK.split(body)
        while len(last) > _LINE_MAX:
            whole.append(last[:_LINE_MAX])
            last = last[_LINE_MAX:]
        self._text = last + rest
        return [line for part in whole if (line := _DROP.sub("", part).rstrip())]

    def close(self) -> list[str]:
        """The unfinished line, when there is one."""
        last, self._text = self.partial.rstrip(), ""
        return [last] if last else []


class Console:
    """What a machine printed so far, and what it still prints.

    Each line goes to ``log`` with its time and to ``on_line``. An exception of ``on_line`` ends nothing
    here: it is raised by the next wait_for.
    """

    def __init__(
        self, *, log: TextIO, clock: Callable[[], float], on_line: Callable[[Line], None] | None
    ) -> None:
        self._log = log
        self._clock = clock
        self._on_line = on_line
        self._splitter = LineSplitter()
        self._changed = asyncio.Condition()
        self._closed = False
        self._count = 0
        self._writer: asyncio.StreamWriter | None = None
        self._problem: BaseException | None = None
        self.lines: list[Line] = []

    @property
    def position(self) -> int:
        """The number the next line will have: a place from which to wait."""
        return self._count

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter | None = None) -> None:
        """Take what comes from ``reader`` up to its end, which is QEMU's end; send() goes to ``writer``."""
        self._writer = writer
        try:
            while data := await _read(reader):
                await self._take(self._splitter.feed(data))
        finally:
            self._closed = True
            await self._take(self._splitter.close())

    async def _take(self, texts: Sequence[str]) -> None:
        for text in texts:
            line = Line(number=self._count, at=self._clock(), text=text)
            self._count += 1
            self.lines.append(line)
            self._log.write(f"{line.at:9.3f} {line.text}\n")
            if self._on_line is not None and self._problem is None:
                try:
                    self._on_line(line)
                except Exception as error:
                    self._problem = error
        self._log.flush()
        del self.lines[:-_LINES_MAX]
        async with self._changed:
            self._changed.notify_all()

    async def wait_for(
        self,
        pattern: str,
        *,
        within: float,
        since: int = 0,
        prompt: bool = False,
        give_up: Sequence[str] = GIVE_UP,
    ) -> Line:
        """The first line from number ``since`` on in which the regular expression ``pattern`` is found.

        With ``prompt`` a line that has not ended counts too. Raises WaitError after ``within`` seconds, or
        at once when QEMU has ended or a line holds one of the texts of ``give_up``.
        """
        wanted = re.compile(pattern)
        try:
            async with asyncio.timeout(within), self._changed:
                while (found := self._look(wanted, since, prompt, give_up)) is None:
                    since = max(since, self._count)
                    await self._changed.wait()
                return found
        except TimeoutError:
            raise WaitError(
                f"{pattern!r} did not come within {within:g} s; last line: {self._last()}"
            ) from None

    def _look(self, wanted: re.Pattern[str], since: int, prompt: bool, give_up: Sequence[str]) -> Line | None:
        if self._problem is not None:
            raise self._problem
        for line in self._from(since):
            if wanted.search(line.text):
                return line
            if hopeless := next((text for text in give_up if text in line.text), None):
                raise WaitError(f"{wanted.pattern!r} can no longer come: the machine said {hopeless!r}")
        if prompt and wanted.search(self._splitter.partial):
            return Line(number=self._count, at=self._clock(), text=self._splitter.partial)
        if self._closed:
            raise WaitError(f"the machine ended before {wanted.pattern!r} came; last line: {self._last()}")
        return None

    def send(self, text: str) -> None:
        """Type ``text`` at the console, as it is: a line ends with "\\n"."""
        if self._writer is None:
            raise TeethError("the console is not connected")
        self._writer.write(text.encode())

    def _from(self, number: int) -> list[Line]:
        first = self._count - len(self.lines)
        return self.lines[max(0, number - first) :]

    def _last(self) -> str:
        return self._splitter.partial or (self.lines[-1].text if self.lines else "none")


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(65536)
    except ConnectionResetError:  # QEMU was killed with output underway
        return b""
