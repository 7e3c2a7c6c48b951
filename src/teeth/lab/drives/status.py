"""Commands about the drive itself: TEST UNIT READY, REQUEST SENSE, START STOP UNIT, SEND DIAGNOSTIC."""

from __future__ import annotations

from teeth.lab.drives.answer import Answer, Command, Refused, check, good, take
from teeth.lab.drives.sense import PARAMETER_LENGTH, STOPPED, Key, Sense, invalid_field
from teeth.lab.drives.unit import Unit

_NOTHING = Sense(key=Key.NO_SENSE)


def test_unit_ready(unit: Unit, command: Command) -> Answer:
    return good()


def request_sense(unit: Unit, command: Command) -> Answer:
    """The pending unit attention, else the state; a running erase shows its progress (SPC-5 6.39)."""
    sense = unit.next_attention(command.nexus) or unit.medium_trouble()
    if sense is None and unit.stopped:
        sense = STOPPED
    sense = sense or _NOTHING
    data = sense.descriptor() if command.cdb[1] & 0x01 else sense.fixed()
    return good(data, command.cdb[4])


def start_stop(unit: Unit, command: Command) -> Answer:
    condition = command.cdb[4] >> 4
    if condition:
        # ACTIVE, IDLE, STANDBY and forced ones: nothing that a lab drive could show.
        if condition not in (1, 2, 3, 7, 0xA, 0xB):
            raise Refused(invalid_field(4))
        return good()
    if command.cdb[4] & 0x02:  # no medium to eject
        raise Refused(invalid_field(4))
    unit.stopped = not command.cdb[4] & 0x01
    if unit.stopped:
        unit.disk.flush()
    return good()


def prevent_removal(unit: Unit, command: Command) -> Answer:
    if command.cdb[4] & 0x02:
        raise Refused(invalid_field(4))
    return good()


def send_diagnostic(unit: Unit, command: Command) -> Answer:
    """Self-tests: they end at once, and find the blocks known to be bad."""
    cdb = command.cdb
    if take(cdb, 3, 2):
        raise Refused(PARAMETER_LENGTH)
    code = cdb[1] >> 5
    if code and cdb[1] & 0x04:
        raise Refused(invalid_field(1))
    if code in (0, 4):
        return good()
    if code not in (1, 2, 5, 6):
        raise Refused(invalid_field(1))
    state = unit.disk.state
    result = 7 if state.bad else 0
    state.self_tests.insert(0, [code, result, state.power_cycles])
    del state.self_tests[20:]
    unit.disk.save()
    if result and code in (5, 6):
        return check(Sense(key=Key.HARDWARE_ERROR, asc=0x3E, ascq=0x03))
    return good()
