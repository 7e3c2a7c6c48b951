"""An ATA device: its commands, by ACS-4 clause 7, over a Disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from teeth.lab.drives import firmware, purge
from teeth.lab.drives.answer import Refused
from teeth.lab.drives.areas import Areas
from teeth.lab.drives.atasanitize import AtaSanitize
from teeth.lab.drives.disk import Disk, Job
from teeth.lab.drives.identify import TRIM_BLOCKS, identify
from teeth.lab.drives.model import Method
from teeth.lab.drives.security import SecurityModel
from teeth.lab.drives.sense import Key
from teeth.lab.drives.smart import Smart, read_log
from teeth.lab.drives.taskfile import (
    ABRT,
    IDNF,
    UNC,
    AtaAnswer,
    AtaError,
    AtaReply,
    AtaWait,
    Taskfile,
    Transfer,
)

_28BIT = (1 << 28) - 1
_SECTOR = 512
Handler = Callable[["AtaDevice", Taskfile, bytes], AtaAnswer]


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaCommand:
    """One row: ``locked`` and ``sanitizing`` say whether the command is carried out then (ACS-4 tables 10
    and 15)."""

    name: str
    handler: Handler
    transfer: Transfer = Transfer.NONE
    locked: bool = True
    sanitizing: bool = False


class AtaDevice:
    """Registers in, registers out; what is volatile about an ATA drive lives here."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        self.security = SecurityModel(disk.state.security)
        self.security.frozen = disk.spec.frozen
        self.sanitizing = AtaSanitize(disk)
        self.areas = Areas(disk)
        self.smart = Smart(disk)
        self.settings_preserved = True
        self.look_ahead = True
        self.standby = False
        self.microcode = bytearray()

    def execute(self, task: Taskfile, data: bytes) -> AtaAnswer:
        """Carry one command out; errors come as AtaReply with an error register."""
        row = COMMANDS.get(task.command)
        after_native, self.areas.read_native_before = self.areas.read_native_before, False
        if task.command != 0xF4:
            self.security.other_command()
        try:
            if row is None:
                raise AtaError
            if self.security.locked and not row.locked:
                raise AtaError
            if self.sanitizing.excludes and not row.sanitizing:
                raise AtaError
            if task.command in (0xF9, 0x37):
                return self.areas.set_max(task, after_native=after_native)
            return row.handler(self, task, data)
        except AtaError as error:
            return _refusal(error)
        except Refused as refused:
            return _medium(refused, task)

    @staticmethod
    def resume(wait: AtaWait) -> AtaAnswer:
        """Finish a wait whose time has come."""
        try:
            return wait.finish()
        except AtaError as error:
            return _refusal(error)

    def identity(self) -> bytes:
        return identify(
            self.disk,
            self.security,
            settings_preserved=self.settings_preserved,
            look_ahead=self.look_ahead,
        )

    # --- resets and power

    def power_on(self) -> None:
        self.settings_preserved = True
        self.look_ahead = True
        self.disk.caching = self.disk.spec.write_cache
        self._fresh()
        # A firmware that freezes at boot does so each time.
        self.security.frozen = self.disk.spec.frozen
        firmware.activate_waiting(self.disk)
        purge.resume(self.disk)

    def hardware_reset(self) -> None:
        """COMRESET. With software settings preservation a drive stays unlocked and frozen (ACS-4 4.20)."""
        if self.disk.job is not None and self.disk.state.sanitize.state != "running":
            self.disk.job = None  # a security erase does not survive
        if not self.settings_preserved:
            self._fresh()
        self.sanitizing.reset()

    def _fresh(self) -> None:
        self.security.power_on()
        self.sanitizing.reset()
        self.areas.power_on()
        self.smart.power_on()
        self.microcode.clear()
        self.standby = False

    # --- what handlers need

    def start_security_erase(self, data: bytes) -> AtaAnswer:
        self.security.allow_erase(data)
        enhanced = bool(data[0] & 0x02)
        if enhanced and not self.disk.spec.enhanced:
            raise AtaError
        method = Method.SECURITY_ERASE_ENHANCED if enhanced else Method.SECURITY_ERASE
        outcome: list[bool] = []
        spans = [self.disk.all_blocks] if enhanced else [(0, self.disk.accessible)]
        self.disk.start(
            Job(
                method=method,
                # Enhanced reaches hidden ends and blocks no longer in use; normal does not (ACS-4 7.44).
                spans=spans,
                pattern=b"\0",
                seconds=self.disk.spec.seconds(method),
                since=self.disk.clock(),
                ended=outcome.append,
            )
        )
        return self._await_erase(outcome)

    def _await_erase(self, outcome: list[bool]) -> AtaAnswer:
        self.disk.tick()
        job = self.disk.job
        if not outcome and job is not None:
            return AtaWait(until=job.until, finish=lambda: self._await_erase(outcome))
        if not outcome or not outcome[0]:
            raise AtaError
        self.security.erased()
        self.disk.save()
        return AtaReply()


def _refusal(error: AtaError) -> AtaReply:
    return AtaReply(error=error.error, status=0x51, lba=error.lba, count=error.count)


def _medium(refused: Refused, task: Taskfile) -> AtaReply:
    """A refusal of the medium in ATA's words."""
    sense = refused.sense
    where = sense.information or 0
    if sense.key is Key.MEDIUM_ERROR:
        return AtaReply(error=UNC, status=0x51, lba=where, count=task.count)
    return AtaReply(error=IDNF if sense.asc == 0x21 else ABRT, status=0x51, lba=where)


def extent(task: Taskfile, *, long: bool) -> tuple[int, int]:
    """(address, count) of a command of the 28- or 48-bit form; a count of 0 is the greatest."""
    if long:
        return task.lba, task.count or 65536
    return task.lba & _28BIT, task.count & 0xFF or 256


_LONG = frozenset({0x24, 0x25, 0x29, 0x34, 0x35, 0x39, 0x3D, 0x42, 0x45})


def _read(device: AtaDevice, task: Taskfile, _: bytes) -> AtaAnswer:
    lba, count = extent(task, long=task.command in _LONG)
    return AtaReply(data=device.disk.read(lba, count))


def _write(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    lba, count = extent(task, long=task.command in _LONG)
    size = count * device.disk.spec.sector
    if len(data) < size:
        raise AtaError
    device.disk.write(lba, data[:size], through=task.command == 0x3D)
    return AtaReply()


def _verify(device: AtaDevice, task: Taskfile, _: bytes) -> AtaAnswer:
    lba, count = extent(task, long=task.command in _LONG)
    device.disk.read(lba, count)
    return AtaReply()


def _uncorrectable(device: AtaDevice, task: Taskfile, _: bytes) -> AtaAnswer:
    """WRITE UNCORRECTABLE EXT: blocks that cannot be read until they are written."""
    lba, count = extent(task, long=True)
    if task.features & 0xFF not in (0x55, 0xAA):
        raise AtaError
    device.disk.check_range(lba, count)
    bad = set(device.disk.state.bad) | set(range(lba, lba + min(count, 1024)))
    device.disk.state.bad = sorted(bad)
    device.disk.save()
    return AtaReply()


def _trim(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    size = task.count * _SECTOR
    if task.features & 0xFF != 0x01 or not device.disk.spec.unmap:
        raise AtaError
    if not 0 < task.count <= TRIM_BLOCKS or len(data) < size:
        raise AtaError
    entries = [int.from_bytes(data[at : at + 8], "little") for at in range(0, size, 8)]
    ranges = [(entry & (1 << 48) - 1, entry >> 48) for entry in entries if entry >> 48]
    for lba, count in ranges:
        device.disk.check_range(lba, count)
    for lba, count in ranges:
        device.disk.clear(Method.DEALLOCATE, lba, count, b"\0")
    return AtaReply()


def _flush(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    device.disk.flush()
    return AtaReply()


def _identify(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    return AtaReply(data=device.identity())


def _security(act: Callable[[AtaDevice, bytes], AtaAnswer | None]) -> Handler:
    """A command of the security set: its data are 512 bytes, what it changes is kept at once."""

    def handle(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
        if not device.disk.spec.security or (
            COMMANDS[task.command].transfer is Transfer.OUT and len(data) < _SECTOR
        ):
            raise AtaError
        answer = act(device, data)
        device.disk.save()
        return answer or AtaReply()

    return handle


def _sanitize(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    return device.sanitizing.execute(task, locked=device.security.locked)


def _native(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    if device.disk.spec.hidden_by != "hpa":
        raise AtaError
    return device.areas.read_native(task)


def _set_max(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    raise AtaError  # execute() carries it out, which knows the command before


def _accessible(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    if device.disk.spec.hidden_by != "ama":
        raise AtaError
    return device.areas.accessible_max(task)


def _overlay(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    if device.disk.spec.hidden_by != "hpa" or (task.features & 0xFF == 0xC3 and len(data) < _SECTOR):
        raise AtaError
    return device.areas.overlay(task, data)


def _smart(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    # While a sanitize runs only the status and one log may be asked for.
    if device.sanitizing.excludes and task.features & 0xFF != 0xDA:
        raise AtaError
    return device.smart.execute(task, data)


def _read_log(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    page = task.lba >> 8 & 0xFF | (task.lba >> 40 & 0xFF) << 8
    return AtaReply(data=read_log(device.disk, device.identity(), task.lba & 0xFF, page, task.count))


def _set_features(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    match task.features & 0xFF:
        case 0x02 | 0x82 as chosen:
            device.disk.caching = chosen == 0x02
            device.disk.flush()
        case 0x55 | 0xAA as chosen:
            device.look_ahead = chosen == 0xAA
        case 0x10 | 0x90 as chosen if task.count == 0x06:
            device.settings_preserved = chosen == 0x10
        case 0x03:
            pass  # transfer mode
        case _:
            raise AtaError
    return AtaReply()


def _power(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    if task.command == 0xE5:
        return AtaReply(count=0x00 if device.standby else 0xFF)
    if task.command in (0xE0, 0xE2, 0xE6):
        device.disk.flush()
        device.standby = True
    else:
        device.standby = False
    return AtaReply()


def _microcode(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    mode = task.features & 0xFF
    if mode == 0x0F:
        if not firmware.activate_waiting(device.disk):
            raise AtaError
        return AtaReply(count=0x02)
    blocks = task.count & 0xFF | (task.lba & 0xFF) << 8
    offset = (task.lba >> 8 & 0xFFFF) * _SECTOR
    if mode not in (0x03, 0x07, 0x0E) or len(data) < blocks * _SECTOR:
        raise AtaError
    if mode == 0x07 or offset == 0:
        device.microcode.clear()
    if offset != len(device.microcode) or offset + blocks * _SECTOR > firmware.IMAGE_MAX:
        device.microcode.clear()
        raise AtaError
    device.microcode += data[: blocks * _SECTOR]
    revision = firmware.revision_of(bytes(device.microcode))
    if revision is None:
        if mode == 0x07 or not firmware.begins_well(bytes(device.microcode)):
            device.microcode.clear()
            raise AtaError
        return AtaReply(count=0x01)  # more segments are expected
    device.microcode.clear()
    device.disk.state.firmware_waiting = revision
    device.disk.save()
    if mode == 0x0E:
        return AtaReply(count=0x03)  # waits for activation
    firmware.activate_waiting(device.disk)
    return AtaReply(count=0x02)


def _diagnose(device: AtaDevice, task: Taskfile, data: bytes) -> AtaAnswer:
    return AtaReply(count=1, lba=1)


def _row(name: str, handler: Handler, transfer: Transfer = Transfer.NONE, *, locked: bool = True,
         sanitizing: bool = False) -> AtaCommand:  # fmt: skip
    return AtaCommand(name=name, handler=handler, transfer=transfer, locked=locked, sanitizing=sanitizing)


_IN, _OUT = Transfer.IN, Transfer.OUT
COMMANDS: dict[int, AtaCommand] = {
    0x06: _row("DATA SET MANAGEMENT", _trim, _OUT, locked=False),
    0x20: _row("READ SECTOR(S)", _read, _IN, locked=False),
    0x24: _row("READ SECTOR(S) EXT", _read, _IN, locked=False),
    0x25: _row("READ DMA EXT", _read, _IN, locked=False),
    0x27: _row("READ NATIVE MAX ADDRESS EXT", _native),
    0x29: _row("READ MULTIPLE EXT", _read, _IN, locked=False),
    0x2F: _row("READ LOG EXT", _read_log, _IN, sanitizing=True),
    0x30: _row("WRITE SECTOR(S)", _write, _OUT, locked=False),
    0x34: _row("WRITE SECTOR(S) EXT", _write, _OUT, locked=False),
    0x35: _row("WRITE DMA EXT", _write, _OUT, locked=False),
    0x37: _row("SET MAX ADDRESS EXT", _set_max, locked=False),
    0x39: _row("WRITE MULTIPLE EXT", _write, _OUT, locked=False),
    0x3D: _row("WRITE DMA FUA EXT", _write, _OUT, locked=False),
    0x40: _row("READ VERIFY SECTOR(S)", _verify, locked=False),
    0x42: _row("READ VERIFY SECTOR(S) EXT", _verify, locked=False),
    0x45: _row("WRITE UNCORRECTABLE EXT", _uncorrectable, locked=False),
    0x47: _row("READ LOG DMA EXT", _read_log, _IN, sanitizing=True),
    0x78: _row("ACCESSIBLE MAX ADDRESS CONFIGURATION", _accessible, locked=False),
    0x90: _row("EXECUTE DEVICE DIAGNOSTIC", _diagnose),
    0x92: _row("DOWNLOAD MICROCODE", _microcode, _OUT),
    0x93: _row("DOWNLOAD MICROCODE DMA", _microcode, _OUT),
    0xB0: _row("SMART", _smart, sanitizing=True),
    0xB1: _row("DEVICE CONFIGURATION", _overlay, locked=False),
    0xB4: _row("SANITIZE DEVICE", _sanitize, sanitizing=True),
    0xC4: _row("READ MULTIPLE", _read, _IN, locked=False),
    0xC5: _row("WRITE MULTIPLE", _write, _OUT, locked=False),
    0xC8: _row("READ DMA", _read, _IN, locked=False),
    0xCA: _row("WRITE DMA", _write, _OUT, locked=False),
    0xE0: _row("STANDBY IMMEDIATE", _power, sanitizing=True),
    0xE1: _row("IDLE IMMEDIATE", _power, sanitizing=True),
    0xE2: _row("STANDBY", _power),
    0xE3: _row("IDLE", _power),
    0xE5: _row("CHECK POWER MODE", _power, sanitizing=True),
    0xE6: _row("SLEEP", _power, sanitizing=True),
    0xE7: _row("FLUSH CACHE", _flush, locked=False),
    0xEA: _row("FLUSH CACHE EXT", _flush, locked=False),
    0xEC: _row("IDENTIFY DEVICE", _identify, _IN, sanitizing=True),
    0xEF: _row("SET FEATURES", _set_features),
    0xF1: _row("SECURITY SET PASSWORD", _security(lambda d, data: d.security.set_password(data)), _OUT),
    0xF2: _row("SECURITY UNLOCK", _security(lambda d, data: d.security.unlock(data)), _OUT),
    0xF3: _row("SECURITY ERASE PREPARE", _security(lambda d, _: d.security.prepare())),
    0xF4: _row("SECURITY ERASE UNIT", _security(lambda d, data: d.start_security_erase(data)), _OUT),
    0xF5: _row("SECURITY FREEZE LOCK", _security(lambda d, _: d.security.freeze())),
    0xF6: _row("SECURITY DISABLE PASSWORD", _security(lambda d, data: d.security.disable(data)), _OUT),
    0xF8: _row("READ NATIVE MAX ADDRESS", _native),
    0xF9: _row("SET MAX ADDRESS", _set_max, locked=False),
}


def transfer_of(task: Taskfile) -> Transfer | None:
    """Which way the data of ``task`` go; None for a command there is not."""
    row = COMMANDS.get(task.command)
    if row is None:
        return None
    features = task.features & 0xFF
    if task.command == 0xB0:
        return Transfer.IN if features in (0xD0, 0xD1, 0xD5) else Transfer.NONE
    if task.command == 0xB1:
        return {0xC2: Transfer.IN, 0xC3: Transfer.OUT}.get(features, Transfer.NONE)
    if task.command in (0x92, 0x93) and features == 0x0F:
        return Transfer.NONE
    return row.transfer
