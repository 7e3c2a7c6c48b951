"""Get Features and Set Features (NVMe base 2.0, 5.15 and 5.27)."""

from __future__ import annotations

from teeth.lab.drives.nvme.core import Core, Host
from teeth.lab.drives.submission import Code, NvmeAnswer, NvmeCommand, NvmeRefused, NvmeReply

QUEUES_MAX = 8
ARBITRATION, POWER, TEMPERATURES, ERROR_RECOVERY = 0x01, 0x02, 0x04, 0x05
WRITE_CACHE, QUEUES, EVENTS, KEEP_ALIVE, SANITIZE_CONFIG = 0x06, 0x07, 0x0B, 0x0F, 0x17
FEATURES = {
    ARBITRATION: "Arbitration",
    POWER: "Power Management",
    TEMPERATURES: "Temperature Threshold",
    ERROR_RECOVERY: "Error Recovery",
    WRITE_CACHE: "Volatile Write Cache",
    QUEUES: "Number of Queues",
    EVENTS: "Asynchronous Event Configuration",
    KEEP_ALIVE: "Keep Alive Timer",
    SANITIZE_CONFIG: "Sanitize Config",
}
_CHANGEABLE = 1 << 2
_EVENT_BITS = 0x3FF


def get_features(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    feature, select = command.cdw10 & 0xFF, command.cdw10 >> 8 & 0x07
    if feature not in FEATURES or select > 3:
        raise NvmeRefused(Code.INVALID_FIELD)
    if feature == WRITE_CACHE and not core.spec.write_cache:
        raise NvmeRefused(Code.INVALID_FIELD)
    if select == 3:
        fixed = (ARBITRATION, POWER, TEMPERATURES, ERROR_RECOVERY)
        return NvmeReply(result=0 if feature in fixed else _CHANGEABLE)
    return NvmeReply(result=_default(feature) if select else _current(core, host, feature))


def _default(feature: int) -> int:
    queues = QUEUES_MAX - 1
    return {WRITE_CACHE: 1, QUEUES: queues | queues << 16, TEMPERATURES: 343}.get(feature, 0)


def _current(core: Core, host: Host, feature: int) -> int:
    match feature:
        case 0x06:
            return int(core.disk.caching)
        case 0x07:
            return (host.queues - 1) | (host.queues - 1) << 16
        case 0x0B:
            return host.event_config
        case 0x0F:
            return host.keep_alive
        case 0x17:
            return int(core.no_deallocate_warns)
        case _:
            return _default(feature)


def set_features(core: Core, host: Host, command: NvmeCommand) -> NvmeAnswer:
    feature, value = command.cdw10 & 0xFF, command.cdw11
    if feature not in FEATURES:
        raise NvmeRefused(Code.INVALID_FIELD)
    if command.cdw10 >> 31:
        raise NvmeRefused(Code.NOT_SAVEABLE)
    if feature == QUEUES:
        if 0xFFFF in (value & 0xFFFF, value >> 16):
            raise NvmeRefused(Code.INVALID_FIELD)
        host.queues = min(QUEUES_MAX, min(value & 0xFFFF, value >> 16) + 1)
        return NvmeReply(result=_current(core, host, QUEUES))
    if feature in (ARBITRATION, POWER, ERROR_RECOVERY) and value:
        raise NvmeRefused(Code.NOT_CHANGEABLE)
    _set(core, host, feature, value)
    return NvmeReply()


def _set(core: Core, host: Host, feature: int, value: int) -> None:
    """A temperature threshold may be set too, and the drive never gets warm."""
    match feature:
        case 0x06:
            if not core.spec.write_cache:
                raise NvmeRefused(Code.INVALID_FIELD)
            if not value & 1:
                core.disk.flush()
            core.disk.caching = bool(value & 1)
        case 0x0B:
            host.event_config = value & _EVENT_BITS
        case 0x0F:
            host.keep_alive = value
        case 0x17:
            core.no_deallocate_warns = bool(value & 1)
