"""SMART, its logs and the general purpose logs (ACS-4 4.19, 7.27, 7.48, 9; attributes as makers use them)."""

from __future__ import annotations

from collections.abc import Callable

from teeth.lab.drives.disk import Disk
from teeth.lab.drives.logs import TEMPERATURE
from teeth.lab.drives.taskfile import AtaError, AtaReply, Taskfile

_KEY = 0xC24F
_BROKEN = 0x2CF4
SHORT_SECONDS, LONG_SECONDS = 2.0, 10.0
_TESTS = {1: SHORT_SECONDS, 2: LONG_SECONDS}
_ROWS = 21


class Smart:
    """Attributes, self-tests, logs. A self-test under way does not outlive a power cut."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self.failing = False  # what RETURN STATUS says
        self._test: tuple[int, float] | None = None

    def power_on(self) -> None:
        self._test = None

    def execute(self, task: Taskfile, data: bytes) -> AtaReply:
        if task.lba >> 8 & 0xFFFF != _KEY:
            raise AtaError
        if not self._disk.state.smart and task.features != 0xD8:
            raise AtaError
        self._tick()
        match task.features & 0xFF:
            case 0xD0:
                return AtaReply(data=self._values())
            case 0xD1:
                return AtaReply(data=self._thresholds())
            case 0xD2 | 0xD3:
                return AtaReply()
            case 0xD4:
                return self._start(task.lba & 0xFF)
            case 0xD5:
                return AtaReply(data=self._log(task.lba & 0xFF, task.count))
            case 0xD8 | 0xD9:
                self._disk.state.smart = task.features & 0xFF == 0xD8
                self._disk.save()
                return AtaReply()
            case 0xDA:
                failing = self.failing or self._exceeded()
                return AtaReply(lba=(_BROKEN if failing else _KEY) << 8)
            case _:
                raise AtaError

    # --- attributes

    def _attributes(self) -> list[tuple[int, int, int, int, int]]:
        """(id, flags, value, threshold, raw)."""
        state, spec = self._disk.state, self._disk.spec
        moved = len(state.remapped)
        spare = max(1, 100 - 100 * moved // max(1, spec.spares))
        rows = [
            (5, 0x33, spare, 10, moved),
            (9, 0x32, 100, 0, state.power_cycles),
            (12, 0x32, 100, 0, state.power_cycles),
            (187, 0x32, max(1, 100 - len(state.bad)), 0, len(state.bad)),
            (194, 0x22, 100 - TEMPERATURE, 0, TEMPERATURE),
            (197, 0x32, max(1, 100 - len(state.bad)), 0, len(state.bad)),
            (198, 0x30, max(1, 100 - len(state.bad)), 0, len(state.bad)),
            (199, 0x32, 100, 0, 0),
            (241, 0x32, 100, 0, state.written),
            (242, 0x32, 100, 0, state.read),
        ]
        return rows if spec.rotational else [*rows[:3], (177, 0x13, 99, 5, 1), *rows[3:]]

    def _exceeded(self) -> bool:
        return any(threshold and value <= threshold for _, _, value, threshold, _ in self._attributes())

    def _values(self) -> bytes:
        data = bytearray(512)
        data[0] = 0x10
        for at, (number, flags, value, _, raw) in enumerate(self._attributes()):
            start = 2 + 12 * at
            data[start] = number
            data[start + 1 : start + 3] = flags.to_bytes(2, "little")
            data[start + 3 : start + 5] = bytes((value, value))
            data[start + 5 : start + 11] = raw.to_bytes(6, "little")
        data[362] = 0x02
        data[363] = self._test_status()
        data[364:366] = (60).to_bytes(2, "little")
        # Offline, self-test and conveyance; saves attributes; error logging; polling times in minutes.
        data[367], data[368:370], data[370] = 0x11, b"\x03\x00", 0x01
        data[372], data[373] = 1, 1
        return _summed(data)

    def _thresholds(self) -> bytes:
        data = bytearray(512)
        data[0] = 0x10
        for at, (number, _, _, threshold, _) in enumerate(self._attributes()):
            data[2 + 12 * at], data[3 + 12 * at] = number, threshold
        return _summed(data)

    # --- self-tests

    def _start(self, kind: int) -> AtaReply:
        if kind == 0x7F:
            if self._test is not None:
                self._record(self._test[0], 1)
                self._test = None
            return AtaReply()
        if kind == 0x00:
            return AtaReply()
        if kind & 0x7F not in _TESTS:
            raise AtaError
        if kind & 0x80:  # captive: at once
            self._record(kind & 0x7F, self._result())
            if self._result():
                raise AtaError(lba=0x2CF4 << 8)
            return AtaReply()
        self._test = (kind, self._disk.clock() + _TESTS[kind])
        return AtaReply()

    def _tick(self) -> None:
        if self._test is not None and self._disk.clock() >= self._test[1]:
            self._record(self._test[0], self._result())
            self._test = None

    def _result(self) -> int:
        return 7 if self._disk.state.bad else 0

    def _record(self, kind: int, result: int) -> None:
        tests = self._disk.state.self_tests
        tests.insert(0, [kind, result, self._disk.state.power_cycles])
        del tests[_ROWS:]
        self._disk.save()

    def _test_status(self) -> int:
        """Byte 363: result and tenths that remain."""
        if self._test is None:
            tests = self._disk.state.self_tests
            return tests[0][1] << 4 if tests else 0
        kind, until = self._test
        left = max(1, min(9, round(10 * (until - self._disk.clock()) / _TESTS[kind])))
        return 0xF0 | left

    # --- logs

    def _log(self, address: int, count: int) -> bytes:
        if not count:
            raise AtaError
        pages: dict[int, Callable[[], bytes]] = {
            0x00: lambda: _directory({0x01: 1, 0x06: 1, 0x09: 1}),
            0x01: lambda: _summed(bytearray(b"\x01" + bytes(511))),
            0x06: self._test_log,
            0x09: lambda: _summed(bytearray(b"\x01" + bytes(511))),
        }
        if address not in pages or count != 1:
            raise AtaError
        return pages[address]()

    def _test_log(self) -> bytes:
        data = bytearray(512)
        data[0] = 1
        tests = self._disk.state.self_tests[:_ROWS]
        for at, (kind, result, hours) in enumerate(reversed(tests)):
            start = 2 + 24 * at
            data[start], data[start + 1] = kind, result << 4
            data[start + 2 : start + 4] = hours.to_bytes(2, "little")
            bad = self._disk.state.bad
            data[start + 5 : start + 9] = (bad[0] if result == 7 and bad else 0).to_bytes(4, "little")
        data[508] = len(tests)
        return _summed(data)


def _directory(sizes: dict[int, int]) -> bytes:
    data = bytearray(512)
    data[0] = 1
    for address, pages in sizes.items():
        data[2 * address : 2 * address + 2] = pages.to_bytes(2, "little")
    return bytes(data)


def _summed(data: bytearray) -> bytes:
    data[511] = 0
    data[511] = -sum(data) & 0xFF
    return bytes(data)


def read_log(disk: Disk, identity: bytes, address: int, page: int, count: int) -> bytes:
    """READ LOG EXT: pages from ``page`` on of a general purpose log."""
    logs: dict[int, Callable[[], list[bytes]]] = {
        0x00: lambda: [_directory({0x04: 2, 0x30: 9})],
        0x04: lambda: _statistics(disk),
        0x30: lambda: _identify_log(disk, identity),
    }
    if address not in logs or not count:
        raise AtaError
    pages = logs[address]()
    if page + count > len(pages):
        raise AtaError
    return b"".join(pages[page : page + count])


def _quadword(value: int) -> bytes:
    """A value that is there and valid: bits 63 and 62."""
    return (value | 0xC0 << 56).to_bytes(8, "little")


def _statistics(disk: Disk) -> list[bytes]:
    """Device statistics: the list of pages, and general statistics (ACS-4 9.5)."""
    state = disk.state
    listed = bytearray(512)
    listed[0:8] = (0x0001).to_bytes(8, "little")
    listed[8:11] = bytes((2, 0x00, 0x01))
    general = bytearray(512)
    general[0:8] = (0x0001 | 0x01 << 16).to_bytes(8, "little")
    for at, value in enumerate(
        (state.power_cycles, state.power_cycles, state.written, 0, state.read), start=1
    ):
        general[8 * at : 8 * at + 8] = _quadword(value)
    return [bytes(listed), bytes(general)]


def _identify_log(disk: Disk, identity: bytes) -> list[bytes]:
    """IDENTIFY DEVICE data log (ACS-4 9.11): the list, the copy, capacity, strings, security."""
    words = [int.from_bytes(identity[i : i + 2], "little") for i in range(0, 512, 2)]
    pages = [bytearray(512) for _ in range(9)]
    pages[0][0:8] = (0x0001).to_bytes(8, "little")
    numbers = (0x00, 0x01, 0x02, 0x05, 0x06)
    pages[0][8 : 9 + len(numbers)] = bytes((len(numbers), *numbers))
    pages[1][:] = identity
    for number in numbers[2:]:
        pages[number][0:8] = (0x0001 | number << 16 | 1 << 63).to_bytes(8, "little")
    pages[2][8:16] = _valid(disk.blocks, 1)
    pages[2][16:24] = _valid((1 << 62 if disk.spec.physical_size > disk.spec.sector else 0), 1)
    pages[2][24:32] = _valid(disk.spec.sector // 2, 1)
    pages[5][8:28] = identity[20:40]
    pages[5][32:40] = identity[46:54]
    pages[5][48:88] = identity[54:94]
    security = words[128] & 0x1F | (words[128] & 0x20) | (words[128] >> 8 & 1) << 6
    pages[6][8:16] = _valid(words[92], 1)
    pages[6][16:24] = _valid(security, 1)
    pages[6][24:32] = _valid(words[89] | words[90] << 16, 1)
    sanitize = words[59]
    bits = sanitize >> 13 & 0x07 | (sanitize >> 12 & 1) << 3
    pages[6][48:56] = _valid(bits, 1)
    return [bytes(page) for page in pages]


def _valid(value: int, there: int) -> bytes:
    return (value | there << 63).to_bytes(8, "little")
