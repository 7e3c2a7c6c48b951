"""A SATA drive behind a SCSI/ATA translator (SAT-4): an AtaDevice that also answers SCSI commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from teeth.lab.drives.answer import Answer, Command, Refused, Reply, Wait, check, good
from teeth.lab.drives.ata import AtaDevice, transfer_of
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.holders import Access
from teeth.lab.drives.inquiry import MAX_TRANSFER
from teeth.lab.drives.media import Media
from teeth.lab.drives.model import DriveSpec, StateStore
from teeth.lab.drives.modes import apply
from teeth.lab.drives.scsi import row, shared_operations, table
from teeth.lab.drives.sense import (
    SECURITY_CONFLICT,
    AtaReturn,
    Key,
    Sense,
    invalid_field,
)
from teeth.lab.drives.taskfile import (
    ABRT,
    IDNF,
    UNC,
    AtaAnswer,
    AtaReply,
    AtaWait,
    Taskfile,
    Transfer,
    from_cdb,
)
from teeth.lab.drives.unit import Identity, Operation, Unit, model_name

_RESETS = {0, 1}
_RESULTS = 15  # what the four bits of a log index can name
_NON_DATA, _PIO_IN, _PIO_OUT, _DMA, _UDMA_IN, _UDMA_OUT, _RETURN = 3, 4, 5, 6, 10, 11, 15
_INFORMATION = Sense(key=Key.RECOVERED_ERROR, asc=0x00, ascq=0x1D)  # ATA PASS THROUGH INFORMATION AVAILABLE
# Commands that touch blocks: a locked drive refuses them.
_MEDIUM = frozenset(
    {0x08, 0x0A, 0x28, 0x2A, 0x2E, 0x2F, 0x35, 0x41, 0x42, 0x88, 0x8A, 0x8E, 0x8F, 0x91, 0x93, 0xA8, 0xAA}
)
_FORM_12 = "a1ffffffffffffffffff0000"
_FORM_16 = "85" + 14 * "ff" + "00"


class SataDrive(Unit):
    """A SATA drive and its translator. Time is what ``clock`` says; ``store`` keeps what outlives power."""

    def __init__(
        self, spec: DriveSpec, media: Media, *, clock: Callable[[], float], store: StateStore | None = None
    ) -> None:
        operations = shared_operations()
        if not spec.unmap:
            del operations[0x42, None]
        # The translator keeps these by itself, so they are answered during a sanitize too.
        for key in ((0x25, None), (0x9E, 0x10)):
            operations[key] = replace(operations[key], early=True)
        passing = {"access": Access.WRITE, "early": True, "seconds": 43200}
        operations |= table(
            (
                row(0xA1, "ATA PASS-THROUGH(12)", _FORM_12, pass_through, **passing),
                row(0x85, "ATA PASS-THROUGH(16)", _FORM_16, pass_through, **passing),
            )
        )
        super().__init__(Disk(spec, media, store or StateStore(), clock), operations)
        self.ata = AtaDevice(self.disk)
        self.ata.power_on()
        self.last = AtaReturn()
        # The translator's log of results: the registers of the last commands that showed some.
        self.results: dict[int, AtaReturn] = {}
        self._turn = 0

    def remember(self, registers: AtaReturn) -> AtaReturn:
        """Keep the registers in the log of results; they come back knowing where they are."""
        self._turn = self._turn % _RESULTS + 1
        kept = self.results[self._turn] = replace(registers, log_index=self._turn)
        return kept

    def extra_logs(self) -> dict[int, Callable[[Unit], bytes]]:
        """ATA Pass-Through Results (SAT-4 12.3.2): the parameter's code is the log index less one."""
        return {
            0x16: lambda _: b"".join(_result(index, self.results[index]) for index in sorted(self.results))
        }

    def identity(self) -> Identity:
        """SAT-4 8.1.2: vendor ATA, the model's first 16 characters, the last 4 of the firmware."""
        revision = self.disk.state.firmware.ljust(8)
        short = revision[4:8].strip() or revision[:4]
        return Identity(vendor="ATA", product=model_name(self.disk)[:16], revision=short, sata=True)

    def extra_pages(self) -> dict[int, bytes]:
        """ATA Information: signature of a SATA device, IDENTIFY DEVICE data (SAT-4 12.4.3)."""
        body = bytearray(568)
        body[4:12] = b"TEETH   "
        body[12:28] = b"lab translator  "
        body[28:32] = b"1.00"
        body[32:52] = bytes((0x34, 0, 0x50, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1)).ljust(20, b"\0")
        body[52] = 0xEC
        body[56:568] = self.ata.identity()
        return {0x89: bytes(body)}

    def not_ready(self, operation: Operation) -> Sense | None:
        if operation.opcode in _MEDIUM and self.ata.security.locked:
            return SECURITY_CONFLICT
        return super().not_ready(operation)

    def reset(self) -> None:
        """A logical unit reset: the translator resets the link."""
        super().reset()
        self.ata.hardware_reset()
        apply(self)

    def power_on(self) -> None:
        super().power_on()
        self.results.clear()
        self.ata.power_on()


def pass_through(unit: Unit, command: Command) -> Answer:
    """ATA PASS-THROUGH (12) and (16), SAT-4 12.2."""
    assert isinstance(unit, SataDrive)
    cdb = command.cdb
    protocol = cdb[1] >> 1 & 0x0F
    if protocol in _RESETS:
        unit.ata.hardware_reset()
        return good()
    if protocol == _RETURN:
        return check(replace(_INFORMATION, ata=unit.last))
    task = from_cdb(cdb)
    assert task is not None
    way = transfer_of(task)
    _check_protocol(protocol, way, cdb)
    data = command.data
    if way is not None and way is not Transfer.NONE:
        size = _length(unit, cdb, task)
        if size > MAX_TRANSFER:
            raise Refused(invalid_field(2))
        data = data[:size] if way is Transfer.OUT else b""
        limit: int | None = size if way is Transfer.IN else None
    else:
        limit = None
    return _ended(unit, task, cdb, unit.ata.execute(task, data), limit)


def _check_protocol(protocol: int, way: Transfer | None, cdb: bytes) -> None:
    """The protocol must be one that exists and go the command's way; a real drive would hang otherwise."""
    inward = protocol in (_PIO_IN, _UDMA_IN) or (protocol == _DMA and bool(cdb[2] & 0x08))
    outward = protocol in (_PIO_OUT, _UDMA_OUT) or (protocol == _DMA and not cdb[2] & 0x08)
    if not (inward or outward or protocol == _NON_DATA):
        raise Refused(invalid_field(1))
    if way is None:
        return  # an unknown command is the drive's to refuse
    if (way is Transfer.IN) != inward or (way is Transfer.OUT) != outward:
        raise Refused(invalid_field(1))


def _length(unit: SataDrive, cdb: bytes, task: Taskfile) -> int:
    """Bytes that T_LENGTH, BYT_BLOK and T_TYPE ask for (SAT-4 table 160)."""
    match cdb[2] & 0x03:
        case 1:
            number = task.features
        case 2:
            number = task.count or (65536 if task.extend else 256)
            if task.command in (0x92, 0x93):
                number = task.count & 0xFF | (task.lba & 0xFF) << 8
        case 3:
            return MAX_TRANSFER  # the transport knows
        case _:
            return 0
    if not cdb[2] & 0x04:
        return number
    return number * (unit.disk.spec.sector if cdb[2] & 0x10 else 512)


def _ended(unit: SataDrive, task: Taskfile, cdb: bytes, answer: AtaAnswer, limit: int | None) -> Answer:
    if isinstance(answer, AtaWait):
        wait = answer
        return Wait(until=wait.until, finish=lambda: _resumed(unit, task, cdb, wait, limit))
    return _translated(unit, task, cdb, answer, limit)


def _resumed(unit: SataDrive, task: Taskfile, cdb: bytes, wait: AtaWait, limit: int | None) -> Answer:
    return _ended(unit, task, cdb, unit.ata.resume(wait), limit)


def _translated(unit: SataDrive, task: Taskfile, cdb: bytes, reply: AtaReply, limit: int | None) -> Reply:
    status = reply.status | (0x01 if reply.error else 0)
    registers = AtaReturn(
        error=reply.error,
        status=status,
        # The short form's highest four bits of an address are in the device register.
        device=task.device if task.extend else task.device & 0xF0 | reply.lba >> 24 & 0x0F,
        count=reply.count,
        lba=reply.lba,
        extend=task.extend,
    )
    if reply.error or cdb[2] & 0x20:
        registers = unit.remember(registers)
    unit.last = registers
    data = reply.data if limit is None else reply.data[:limit]
    if reply.error:
        return check(replace(_ata_sense(reply), ata=registers))
    if cdb[2] & 0x20:
        return check(replace(_INFORMATION, ata=registers), data)
    return good(data)


def _ata_sense(reply: AtaReply) -> Sense:
    """Error register to sense key, SAT-4 table 11.1."""
    if reply.error & UNC:
        return Sense(key=Key.MEDIUM_ERROR, asc=0x11, ascq=0x04)
    if reply.error & IDNF:
        return Sense(key=Key.ABORTED_COMMAND, asc=0x14)
    assert reply.error & ABRT
    return Sense(key=Key.ABORTED_COMMAND)


def _result(index: int, registers: AtaReturn) -> bytes:
    value = registers.descriptor()
    return (index - 1).to_bytes(2, "big") + bytes((0x03, len(value))) + value
