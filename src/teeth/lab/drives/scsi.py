"""A SCSI (SAS-like) drive: the table of its commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from teeth.lab.drives import blocks, firmware, opcodes, purge, reservations, sanitize, status
from teeth.lab.drives.disk import Disk
from teeth.lab.drives.holders import Access
from teeth.lab.drives.inquiry import inquiry
from teeth.lab.drives.logs import log_sense
from teeth.lab.drives.media import Media
from teeth.lab.drives.model import DriveSpec, Method, StateStore
from teeth.lab.drives.modes import apply, mode_select, mode_sense
from teeth.lab.drives.unit import Handler, Operation, Unit

Table = dict[tuple[int, int | None], Operation]
_ERASE_SECONDS = 43200  # what the drive recommends to wait for an erase


def row(opcode: int, name: str, usage: str, handler: Handler, **rest: Any) -> Operation:
    """One row; see Operation for the rest."""
    return Operation(opcode=opcode, name=name, usage=usage.replace(" ", ""), handler=handler, **rest)


def table(rows: Iterable[Operation]) -> Table:
    return {(row.opcode, row.service): row for row in rows}


_FREE = {"access": Access.FREE}
_WRITE = {"access": Access.WRITE}
# Answered although an erase keeps the medium away (SBC-4 4.11.2), without taking a unit attention or with.
_EARLY = {"access": Access.FREE, "early": True}
_ALWAYS = {"access": Access.FREE, "early": True, "attentive": True}
_COMPARE = "8918 ffffffffffffffff 000000ff 0000"
_LONG16 = "ffffffffffffffffffffffff 0000"  # address and length of the 16-byte forms


def shared_operations() -> Table:
    """What SCSI drives and SATA drives behind a translator both answer."""
    return table(
        (
            row(0x00, "TEST UNIT READY", "000000000000", status.test_unit_ready, **_FREE),
            row(0x03, "REQUEST SENSE", "03010000ff00", status.request_sense, **_ALWAYS),
            row(0x08, "READ(6)", "081fffffff00", blocks.read),
            row(0x0A, "WRITE(6)", "0a1fffffff00", blocks.write, **_WRITE),
            row(0x12, "INQUIRY", "1201ffffff00", inquiry, **_ALWAYS),
            row(0x15, "MODE SELECT(6)", "15110000ff00", mode_select, stopped=True, **_WRITE),
            row(0x1A, "MODE SENSE(6)", "1a08ffffff00", mode_sense, **_EARLY),
            row(0x1B, "START STOP UNIT", "1b010000f300", status.start_stop, stopped=True),
            row(0x1D, "SEND DIAGNOSTIC", "1df400ffff00", status.send_diagnostic, seconds=7200, **_WRITE),
            row(0x1E, "PREVENT ALLOW MEDIUM REMOVAL", "1e0000000300", status.prevent_removal, **_FREE),
            row(0x25, "READ CAPACITY(10)", "25" + 9 * "00", blocks.read_capacity_10, stopped=True, **_FREE),
            row(0x28, "READ(10)", "2818ffffffff00ffff00", blocks.read),
            row(0x2A, "WRITE(10)", "2a18ffffffff00ffff00", blocks.write, **_WRITE),
            row(0x2E, "WRITE AND VERIFY(10)", "2e12ffffffff00ffff00", blocks.write, **_WRITE),
            row(0x2F, "VERIFY(10)", "2f16ffffffff00ffff00", blocks.verify, seconds=7200),
            row(0x35, "SYNCHRONIZE CACHE(10)", "3500ffffffff00ffff00", blocks.synchronize, **_WRITE),
            row(0x41, "WRITE SAME(10)", "4108ffffffff00ffff00", blocks.write_same, seconds=3600, **_WRITE),
            row(0x42, "UNMAP", "42000000000000ffff00", blocks.unmap, **_WRITE),
            row(0x4D, "LOG SENSE", "4d00ff00000000ffff00", log_sense, **_EARLY),
            row(0x55, "MODE SELECT(10)", "55110000000000ffff00", mode_select, stopped=True, **_WRITE),
            row(0x5A, "MODE SENSE(10)", "5a18ffff000000ffff00", mode_sense, **_EARLY),
            row(0x88, "READ(16)", "8818" + _LONG16, blocks.read),
            row(0x8A, "WRITE(16)", "8a18" + _LONG16, blocks.write, **_WRITE),
            row(0x8E, "WRITE AND VERIFY(16)", "8e12" + _LONG16, blocks.write, **_WRITE),
            row(0x8F, "VERIFY(16)", "8f16" + _LONG16, blocks.verify, seconds=7200),
            row(0x91, "SYNCHRONIZE CACHE(16)", "9100" + _LONG16, blocks.synchronize, **_WRITE),
            row(0x93, "WRITE SAME(16)", "9309" + _LONG16, blocks.write_same, seconds=3600, **_WRITE),
            row(
                0x9E, "READ CAPACITY(16)", "9e10 0000000000000000 ffffffff 0000", blocks.read_capacity_16,
                service=0x10, stopped=True, **_FREE,
            ),
            row(0xA0, "REPORT LUNS", "a000ff000000ffffffff0000", opcodes.report_luns, **_ALWAYS),
            row(
                0xA3, "REPORT SUPPORTED OPERATION CODES", "a30c87ffffffffffffff0000", opcodes.report_opcodes,
                service=0x0C, **_EARLY,
            ),
            row(
                0xA3, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", "a30d80000000ffffffff0000",
                opcodes.report_task_management, service=0x0D, **_EARLY,
            ),
            row(0xA8, "READ(12)", "a818ffffffffffffffff0000", blocks.read),
            row(0xAA, "WRITE(12)", "aa18ffffffffffffffff0000", blocks.write, **_WRITE),
        )
    )  # fmt: skip


def _scsi_operations(spec: DriveSpec) -> Table:
    erase: dict[str, Any] = {"seconds": _ERASE_SECONDS, **_WRITE}
    rows = [
        row(0x04, "FORMAT UNIT", "04f700000000", sanitize.format_unit, early=True, **erase),
        row(0x3B, "WRITE BUFFER", "3b1fffffffffffffff00", firmware.write_buffer, seconds=300, **_WRITE),
        row(0x3C, "READ BUFFER", "3c1fffffffffffffff00", firmware.read_buffer, **_WRITE),
        row(0x89, "COMPARE AND WRITE", _COMPARE, blocks.compare_and_write, **_WRITE),
        *(
            row(0x5E, "PERSISTENT RESERVE IN", f"5e{action:02x}0000000000ffff00", reservations.reserve_in,
                service=action, **_FREE)
            for action in range(4)
        ),
        *(
            row(0x5F, "PERSISTENT RESERVE OUT", f"5f{action:02x}ff0000ffffffff00", reservations.reserve_out,
                service=action, **_FREE)
            for action in range(7)
        ),
    ]  # fmt: skip
    actions = [sanitize.ACTIONS[method] for method in Method if method in spec.sanitizes]
    usage = "48a00000000000ffff00"
    rows += [row(0x48, "SANITIZE", usage, sanitize.sanitize, service=n, early=True, **erase) for n in actions]
    if actions:
        rows.append(
            row(
                0x48,
                "SANITIZE",
                "48800000000000000000",
                sanitize.exit_failure,
                service=0x1F,
                early=True,
                **_WRITE,
            )
        )
    return table(rows)


class ScsiDrive(Unit):
    """A SCSI drive. Time is what ``clock`` says, in seconds; ``store`` keeps what no power cut takes."""

    def __init__(
        self, spec: DriveSpec, media: Media, *, clock: Callable[[], float], store: StateStore | None = None
    ) -> None:
        disk = Disk(spec, media, store or StateStore(), clock)
        operations = shared_operations() | _scsi_operations(spec)
        if not spec.unmap:
            del operations[0x42, None]
        super().__init__(disk, operations)
        self._come_up()

    def _come_up(self) -> None:
        apply(self)
        purge.resume(self.disk)
        if self.disk.state.format == "running":
            # SBC-4 4.10: a format that power cut short leaves the medium as it is: not usable.
            self.disk.state.format = "corrupted"
            self.disk.save()

    def reset(self) -> None:
        super().reset()
        apply(self)

    def power_on(self) -> None:
        super().power_on()
        firmware.activate_waiting(self.disk)
        self._come_up()
