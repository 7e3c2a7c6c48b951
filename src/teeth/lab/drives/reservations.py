"""PERSISTENT RESERVE IN and OUT (SPC-5 5.13, 6.15, 6.16)."""

from __future__ import annotations

from teeth.lab.drives.answer import Answer, Command, Refused, Reply, good, take
from teeth.lab.drives.holders import ALL_REGISTRANTS, REGISTRANTS_ONLY, Reservations
from teeth.lab.drives.sense import (
    PARAMETER_LENGTH,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    RESERVATIONS_RELEASED,
    Key,
    Sense,
    Status,
    invalid_field,
    invalid_parameter,
)
from teeth.lab.drives.unit import Unit

_REGISTRANTS = 64
_TYPES = (1, 3, 5, 6, 7, 8)
_RELEASE_INVALID = Sense(key=Key.ILLEGAL_REQUEST, asc=0x26, ascq=0x04)
_NO_RESOURCES = Sense(key=Key.ILLEGAL_REQUEST, asc=0x55, ascq=0x04)
_CONFLICT = Reply(status=Status.RESERVATION_CONFLICT)


def reserve_in(unit: Unit, command: Command) -> Answer:
    held = unit.reservations
    action = command.cdb[1] & 0x1F
    limit = take(command.cdb, 7, 2)
    head = held.generation.to_bytes(4, "big")
    key = 0 if held.holder is None or held.type in ALL_REGISTRANTS else held.keys.get(held.holder, 0)
    match action:
        case 0:
            body = b"".join(key.to_bytes(8, "big") for key in held.keys.values())
        case 1:
            body = (
                b""
                if held.holder is None
                else key.to_bytes(8, "big") + bytes((0, 0, 0, 0, 0, held.type, 0, 0))
            )
        case 2:
            # PTPL_C; type mask valid, PTPL_A; all six types.
            return good(bytes((0, 8, 0x01, 0x80 | int(held.persist), 0xEA, 0x01, 0, 0)), limit)
        case _:
            body = b"".join(_full(held, nexus, key) for nexus, key in held.keys.items())
    return good(head + len(body).to_bytes(4, "big") + body, limit)


def _full(held: Reservations, nexus: str, key: int) -> bytes:
    """One full status descriptor with the initiator's iSCSI name, SPC-5 6.15.5."""
    holds = held.holds(nexus)
    name = nexus.encode()[:200] + b"\0"
    # A TransportID of iSCSI has at least 20 bytes of name (SPC-5 7.6.4.6).
    name = name.ljust(20, b"\0") + bytes(-max(len(name), 20) % 4)
    transport = bytes((0x45, 0)) + len(name).to_bytes(2, "big") + name
    flags = bytes((0x01 if holds else 0, held.type if holds else 0))
    return (
        key.to_bytes(8, "big") + bytes(4) + flags + bytes(4) + bytes((0, 1))
        + len(transport).to_bytes(4, "big") + transport
    )  # fmt: skip


def reserve_out(unit: Unit, command: Command) -> Answer:
    held, cdb, nexus = unit.reservations, command.cdb, command.nexus
    action, scope, kind = cdb[1] & 0x1F, cdb[2] >> 4, cdb[2] & 0x0F
    if take(cdb, 5, 4) != 24 or len(command.data) < 24:
        raise Refused(PARAMETER_LENGTH)
    key, fresh, flags = take(command.data, 0, 8), take(command.data, 8, 8), command.data[20]
    if action in (0, 6):
        return _register(unit, command, key if action == 0 else None, fresh, flags)
    if held.keys.get(nexus) != key:
        return _CONFLICT
    if action != 3 and (scope or kind not in _TYPES):
        raise Refused(invalid_field(2))
    match action:
        case 1:
            if held.holder is not None and (not held.holds(nexus) or held.type != kind):
                return _CONFLICT
            if held.holder is None:
                held.holder, held.type = nexus, kind
        case 2:
            _release(unit, nexus, kind)
        case 3:
            others = [other for other in held.keys if other != nexus]
            held.keys.clear()
            held.release()
            held.generation += 1
            for other in others:
                unit.attend(RESERVATIONS_PREEMPTED, only=other)
        case _:
            if not _preempt(unit, nexus, fresh, kind):
                return _CONFLICT
    held.store(unit.disk)
    return good()


def _register(unit: Unit, command: Command, key: int | None, fresh: int, flags: int) -> Answer:
    held, nexus = unit.reservations, command.nexus
    if flags & 0x0C:  # SPEC_I_PT and ALL_TG_PT: one port, and this initiator only
        raise Refused(invalid_parameter(20))
    known = held.keys.get(nexus)
    if key is not None and key != (known or 0):
        return _CONFLICT
    if fresh:
        if known is None and len(held.keys) >= _REGISTRANTS:
            raise Refused(_NO_RESOURCES)
        held.keys[nexus] = fresh
    elif known is not None:
        _unregister(unit, nexus)
    held.persist = bool(flags & 0x01)
    held.generation += 1
    held.store(unit.disk)
    return good()


def _unregister(unit: Unit, nexus: str) -> None:
    held = unit.reservations
    kind = held.type
    held_alone = held.holder == nexus and kind not in ALL_REGISTRANTS
    del held.keys[nexus]
    if held_alone or (kind in ALL_REGISTRANTS and not held.keys):
        held.release()
        if kind in (5, 6):
            for other in held.keys:
                unit.attend(RESERVATIONS_RELEASED, only=other)


def _release(unit: Unit, nexus: str, kind: int) -> None:
    held = unit.reservations
    if not held.holds(nexus):
        return
    if held.type != kind:
        raise Refused(_RELEASE_INVALID)
    held.release()
    if kind in REGISTRANTS_ONLY:
        for other in held.keys:
            if other != nexus:
                unit.attend(RESERVATIONS_RELEASED, only=other)


def _preempt(unit: Unit, nexus: str, victim: int, kind: int) -> bool:
    """SPC-5 5.13.11.2: take registrations away, and the reservation where the victim's key holds it. False
    when nobody has that key."""
    held = unit.reservations
    if held.holder is not None and held.type in ALL_REGISTRANTS and victim == 0:
        gone = [other for other in held.keys if other != nexus]
        takes = True
    else:
        if victim == 0:
            raise Refused(invalid_parameter(8))
        gone = [other for other, key in held.keys.items() if key == victim and other != nexus]
        takes = (
            held.holder is not None
            and held.type not in ALL_REGISTRANTS
            and held.keys.get(held.holder) == victim
        )
        if not gone and not takes:
            return False
    for other in gone:
        held.keys.pop(other, None)
        unit.attend(REGISTRATIONS_PREEMPTED, only=other)
    if takes:
        held.holder, held.type = nexus, kind
    held.generation += 1
    return True
