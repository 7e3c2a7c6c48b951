"""SANITIZE (SBC-4 5.30) and FORMAT UNIT (SBC-4 5.4)."""

from __future__ import annotations

from teeth.lab.drives import purge
from teeth.lab.drives.answer import Answer, Command, Refused, Reply, Wait, check, good, take
from teeth.lab.drives.disk import Job
from teeth.lab.drives.model import Method, Sanitize
from teeth.lab.drives.sense import (
    FORMAT_FAILED,
    PARAMETER_LENGTH,
    SANITIZE_FAILED,
    SEQUENCE_ERROR,
    Sense,
    invalid_field,
    invalid_parameter,
)
from teeth.lab.drives.unit import Unit

OVERWRITE, BLOCK, CRYPTO, EXIT_FAILURE = 0x01, 0x02, 0x03, 0x1F
_METHODS = {
    OVERWRITE: Method.SANITIZE_OVERWRITE,
    BLOCK: Method.SANITIZE_BLOCK,
    CRYPTO: Method.SANITIZE_CRYPTO,
}
ACTIONS = {method: action for action, method in _METHODS.items()}


def sanitize(unit: Unit, command: Command) -> Answer:
    cdb, state = command.cdb, unit.disk.state.sanitize
    _check_reserved(cdb)
    if state.state == "running":
        raise Refused(unit.medium_trouble() or SEQUENCE_ERROR)
    if unit.disk.state.format == "running":
        raise Refused(unit.medium_trouble() or SEQUENCE_ERROR)
    unit.disk.check_writable()
    method = _METHODS[cdb[1] & 0x1F]
    if state.state == "failed" and not state.exit_allowed and cdb[1] & 0x20:
        # After a failed restricted operation only restricted ones are taken (SBC-4 4.11.3).
        raise Refused(invalid_field(1))
    wanted = Sanitize(method=method.value, exit_allowed=bool(cdb[1] & 0x20))
    if method is Method.SANITIZE_OVERWRITE:
        _overwrite_parameters(unit, command, wanted)
    elif take(cdb, 7, 2):
        raise Refused(invalid_field(7))
    purge.begin(unit.disk, wanted)
    if cdb[1] & 0x80:
        return good()
    job = unit.disk.job
    return Wait(until=job.until if job else unit.disk.clock(), finish=lambda: _sanitized(unit), shares=True)


def _sanitized(unit: Unit) -> Answer:
    state = unit.disk.state.sanitize.state
    if state == "running" and unit.disk.job is not None:
        return Wait(until=unit.disk.job.until, finish=lambda: _sanitized(unit), shares=True)
    return good() if state == "done" else check(SANITIZE_FAILED)


def _overwrite_parameters(unit: Unit, command: Command, wanted: Sanitize) -> None:
    length = take(command.cdb, 7, 2)
    data = command.data[:length]
    # SBC-4: 0004h < length <= logical block length + 4.
    if not 4 < length <= unit.disk.spec.sector + 4:
        raise Refused(invalid_field(7))
    if len(data) < length:
        raise Refused(PARAMETER_LENGTH)
    passes, size = data[0] & 0x1F, take(data, 2, 2)
    if not passes:
        raise Refused(invalid_parameter(0))
    if not 1 <= size <= unit.disk.spec.sector or size != length - 4:
        raise Refused(invalid_parameter(2))
    wanted.passes, wanted.invert = passes, bool(data[0] & 0x80)
    pattern = data[4 : 4 + size]
    # The pattern starts anew in each block.
    sector = unit.disk.spec.sector
    wanted.pattern = (pattern * -(-sector // size))[:sector].hex() if any(pattern) else "00"


def exit_failure(unit: Unit, command: Command) -> Answer:
    """EXIT FAILURE MODE: only where the failed operation allowed unrestricted exit (AUSE)."""
    state = unit.disk.state.sanitize
    _check_reserved(command.cdb)
    if state.state == "running":
        raise Refused(unit.medium_trouble() or SEQUENCE_ERROR)
    if state.state != "failed" or not state.exit_allowed:
        raise Refused(invalid_field(1))
    unit.disk.state.sanitize = Sanitize()
    unit.disk.save()
    return good()


def _check_reserved(cdb: bytes) -> None:
    """Bit 6 is ZNR, which only zoned drives have."""
    if cdb[1] & 0x40:
        raise Refused(invalid_field(1))
    for byte in range(2, 7):
        if cdb[byte]:
            raise Refused(invalid_field(byte))


def format_unit(unit: Unit, command: Command) -> Answer:
    cdb, disk = command.cdb, unit.disk
    disk.check_writable()
    # A medium whose format failed or was cut short may be formatted; a sanitize comes first.
    if disk.state.format == "running" or disk.state.sanitize.state in ("running", "failed"):
        raise Refused(unit.medium_trouble() or SEQUENCE_ERROR)
    if cdb[1] & 0xC0:  # protection information
        raise Refused(invalid_field(1))
    if not cdb[1] & 0x10:
        return _format(unit, b"\0", immediate=False)
    long = bool(cdb[1] & 0x20)
    head = 8 if long else 4
    data = command.data
    if len(data) < head:
        raise Refused(PARAMETER_LENGTH)
    if data[0] & 0x07:
        raise Refused(invalid_parameter(0))
    pattern = _initialization(data[head:], head) if data[1] & 0x08 else b"\0"
    return _format(unit, pattern, immediate=bool(data[1] & 0x02))


def _initialization(data: bytes, at: int) -> bytes:
    """The initialization pattern descriptor, SBC-4 5.4.3.3."""
    if len(data) < 4:
        raise Refused(PARAMETER_LENGTH)
    size = take(data, 2, 2)
    if data[1] not in (0x00, 0x01) or (data[1] == 0x00 and size):
        raise Refused(invalid_parameter(at + 1))
    if data[1] == 0x00:
        return b"\0"
    if not size or len(data) < 4 + size:
        raise Refused(invalid_parameter(at + 2))
    return data[4 : 4 + size]


def _format(unit: Unit, pattern: bytes, *, immediate: bool) -> Answer:
    disk = unit.disk
    disk.state.format = "running"

    def ended(well: bool) -> None:
        disk.state.format = "good" if well else "failed"
        if well:
            disk.state.sanitize = Sanitize()

    disk.start(
        Job(
            method=Method.FORMAT,
            # What the user can reach: retired blocks are not formatted.
            spans=[(0, disk.accessible)],
            pattern=pattern,
            seconds=disk.spec.seconds(Method.FORMAT),
            since=disk.clock(),
            ended=ended,
        )
    )
    if immediate:
        return good()
    job = disk.job
    return Wait(until=job.until if job else disk.clock(), finish=lambda: _formatted(unit), shares=True)


def _formatted(unit: Unit) -> Reply:
    sense: Sense | None = unit.medium_trouble()
    return good() if unit.disk.state.format == "good" else check(sense or FORMAT_FAILED)
