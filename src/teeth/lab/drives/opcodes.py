"""REPORT SUPPORTED OPERATION CODES (SPC-5 6.35), REPORT LUNS and TASK MANAGEMENT's list."""

from __future__ import annotations

from teeth.lab.drives.answer import Answer, Command, Refused, good, take
from teeth.lab.drives.sense import invalid_field
from teeth.lab.drives.unit import Operation, Unit


def report_opcodes(unit: Unit, command: Command) -> Answer:
    cdb = command.cdb
    timeouts = bool(cdb[2] & 0x80)
    limit = take(cdb, 6, 4)
    options = cdb[2] & 0x07
    if options == 0:
        return good(_all(unit, timeouts), limit)
    if options > 3:
        raise Refused(invalid_field(2))
    opcode, service = cdb[3], take(cdb, 4, 2)
    rows = [row for row in unit.operations.values() if row.opcode == opcode]
    with_actions = any(row.service is not None for row in rows)
    if options == 1 and with_actions:
        raise Refused(invalid_field(2))
    if options == 2 and rows and not with_actions:
        raise Refused(invalid_field(2))
    if options == 3 and not with_actions and service:
        rows = []
    found = [row for row in rows if row.service is None or row.service == service]
    return good(_one(found[0] if found else None, timeouts), limit)


def _all(unit: Unit, timeouts: bool) -> bytes:
    rows = b""
    for row in sorted(unit.operations.values(), key=lambda row: (row.opcode, row.service or 0)):
        flags = (0x02 if timeouts else 0) | (0x01 if row.service is not None else 0)
        rows += bytes((row.opcode, 0)) + (row.service or 0).to_bytes(2, "big")
        rows += bytes((0, flags)) + row.length.to_bytes(2, "big")
        rows += _timeout(row) if timeouts else b""
    return len(rows).to_bytes(4, "big") + rows


def _one(row: Operation | None, timeouts: bool) -> bytes:
    if row is None:
        return bytes((0, 0x01, 0, 0))
    usage = bytearray(bytes.fromhex(row.usage))
    if row.service is not None:
        usage[1] = usage[1] & 0xE0 | row.service
    head = bytes((0, 0x03 | (0x80 if timeouts else 0))) + row.length.to_bytes(2, "big")
    return head + bytes(usage) + (_timeout(row) if timeouts else b"")


def _timeout(row: Operation) -> bytes:
    """Command timeouts descriptor: nominal 1 s, recommended what the row says."""
    return bytes((0, 10, 0, 0)) + (1).to_bytes(4, "big") + row.seconds.to_bytes(4, "big")


def report_task_management(unit: Unit, command: Command) -> Answer:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: abort task, abort task set, LUN reset; I_T nexus reset."""
    return good(bytes((0x80 | 0x40 | 0x08, 0x01, 0, 0)), take(command.cdb, 6, 4))


def report_luns(unit: Unit, command: Command) -> Answer:
    """One logical unit, number 0."""
    if command.cdb[2] not in (0x00, 0x01, 0x02):
        raise Refused(invalid_field(2))
    limit = take(command.cdb, 6, 4)
    if limit < 16:
        raise Refused(invalid_field(6))
    if command.cdb[2] == 0x01:
        return good(bytes(8), limit)
    return good((8).to_bytes(4, "big") + bytes(4) + bytes(8), limit)
