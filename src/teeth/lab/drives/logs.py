"""LOG SENSE (SPC-5 6.9 and 7.3, SBC-4 6.4)."""

from __future__ import annotations

from collections.abc import Callable

from teeth.lab.drives.answer import Answer, Command, Refused, good, take
from teeth.lab.drives.sense import invalid_field
from teeth.lab.drives.unit import Unit

TEMPERATURE = 31  # degrees Celsius
_REFERENCE = 65


def log_sense(unit: Unit, command: Command) -> Answer:
    cdb = command.cdb
    control, code, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    pages = _pages(unit)
    if cdb[1] & 0x01:
        raise Refused(invalid_field(1))
    if code not in pages:
        raise Refused(invalid_field(2))
    if subpage:
        raise Refused(invalid_field(3))
    # Cumulative and current values; thresholds are not kept.
    if control not in (0, 1) and code:
        raise Refused(invalid_field(2))
    body = pages[code](unit)
    return good(bytes((code, 0)) + len(body).to_bytes(2, "big") + body, take(cdb, 7, 2))


def _pages(unit: Unit) -> dict[int, Callable[[Unit], bytes]]:
    pages: dict[int, Callable[[Unit], bytes]] = {
        0x00: lambda unit: bytes(sorted(_pages(unit))),
        0x02: lambda unit: _errors(0, unit.disk.state.written * unit.disk.spec.sector),
        0x03: lambda unit: _errors(len(unit.disk.state.bad), unit.disk.state.read * unit.disk.spec.sector),
        0x0D: _temperature,
        0x10: _self_tests,
        0x15: _background,
        0x19: _statistics,
        0x2F: _exceptions,
        **unit.extra_logs(),
    }
    if not unit.disk.spec.rotational:
        pages[0x11] = _solid_state
    return pages


def _parameter(code: int, body: bytes, control: int = 0x03) -> bytes:
    return code.to_bytes(2, "big") + bytes((control, len(body))) + body


def _errors(uncorrected: int, processed: int) -> bytes:
    values = {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: processed, 6: uncorrected}
    return b"".join(_parameter(code, value.to_bytes(8, "big"), 0x02) for code, value in values.items())


def _temperature(unit: Unit) -> bytes:
    return _parameter(0, bytes((0, TEMPERATURE))) + _parameter(1, bytes((0, _REFERENCE)))


def _self_tests(unit: Unit) -> bytes:
    rows = []
    for number in range(20):
        tests = unit.disk.state.self_tests
        body = bytearray(16)
        if number < len(tests):
            code, result, hours = tests[number]
            body[0] = code << 5 | result
            body[1] = 1
            body[2:4] = hours.to_bytes(2, "big")
            body[4:12] = (unit.disk.state.bad[0] if result and unit.disk.state.bad else 2**64 - 1).to_bytes(
                8, "big"
            )
        rows.append(_parameter(number + 1, bytes(body)))
    return b"".join(rows)


def _solid_state(unit: Unit) -> bytes:
    """Percentage used endurance."""
    return _parameter(1, bytes((0, 0, 0, 1)))


def _statistics(unit: Unit) -> bytes:
    """General statistics and performance (SPC-4 7.3.7): blocks moved; commands and times are not counted."""
    state = unit.disk.state
    moved = (0, 0, state.written, state.read, 0, 0, 0, 0)
    return (
        _parameter(1, b"".join(value.to_bytes(8, "big") for value in moved))
        + _parameter(2, bytes(8))
        # The unit of those times: 50 ms, as an exponent of ten (-3) and a factor.
        + _parameter(3, (0xFFFFFFFD).to_bytes(4, "big") + (50).to_bytes(4, "big"))
    )


def _background(unit: Unit) -> bytes:
    """Background scan: idle, none done; then one entry for each block known to be bad."""
    state = unit.disk.state
    body = _parameter(0, (state.power_cycles * 60).to_bytes(4, "big") + bytes(8))
    for number, lba in enumerate(sorted(state.bad)[:64], start=1):
        # Reassign status 1: waits for a write. Sense 3/11/00.
        entry = bytes(4) + bytes((0x13, 0x11, 0x00)) + bytes(5) + lba.to_bytes(8, "big")
        body += _parameter(number, entry)
    return body


def _exceptions(unit: Unit) -> bytes:
    return _parameter(0, bytes((0, 0, TEMPERATURE, _REFERENCE)))
