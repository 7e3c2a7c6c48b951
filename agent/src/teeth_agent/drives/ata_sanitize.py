"""What SANITIZE STATUS EXT says (ACS-4 7.36.6), also where fixed format sense data cut its count off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from teeth_agent.drives.sense import AtaReturn

_DONE, _RUNNING, _FROZEN, _ANTIFROZEN = 0x8000, 0x4000, 0x2000, 0x1000
_NO_PROGRESS = 0xFFFF
_REASONS = {
    1: "the last sanitize operation failed",
    2: "the operation is not supported",
    3: "the drive is sanitize-frozen",
    4: "the drive is locked against freezing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SanitizeStatus:
    """The states of ACS-4 figure 8, as far as they came through: None is unknown.

    ``progress`` is a fraction, of a running operation only. ``failed``: the status itself was refused, as it
    is after an operation that failed; ``reason`` says what the drive gave for it.
    """

    running: bool | None = None
    succeeded: bool | None = None
    failed: bool | None = None
    frozen: bool | None = None
    antifrozen: bool | None = None
    progress: float | None = None
    reason: str = ""
    registers: AtaReturn | None = None

    @property
    def whole(self) -> bool:
        """Whether all of it came through."""
        return bool(self.failed) or (self.registers is not None and self.registers.whole)

    def evidence(self) -> dict[str, Any]:
        """JSON values for a record: the registers as they came, in hex."""
        raw = self.registers
        if raw is None:
            return {"registers": None, "failed": self.failed}
        return {
            "registers": {
                "status": f"{raw.status:02x}",
                "error": f"{raw.error:02x}",
                "count": f"{raw.count:04x}" if raw.whole else f"??{raw.count:02x}",
                "lba": f"{raw.lba:012x}" if raw.whole else f"??????{raw.lba:06x}",
                "whole": raw.whole,
            },
            "running": self.running,
            "succeeded": self.succeeded,
            "failed": self.failed,
        }


def read_status(registers: AtaReturn | None) -> SanitizeStatus:
    """The normal outputs: count 15 done, 14 running, 13 frozen, 12 antifrozen; address 15:0 the progress."""
    if registers is None:
        return SanitizeStatus()
    if not registers.whole:
        return _read_cut(registers)
    running = bool(registers.count & _RUNNING)
    return SanitizeStatus(
        running=running,
        succeeded=bool(registers.count & _DONE) and not running,
        failed=False,
        frozen=bool(registers.count & _FROZEN),
        antifrozen=bool(registers.count & _ANTIFROZEN),
        progress=_progress(registers) if running else None,
        registers=registers,
    )


def _read_cut(registers: AtaReturn) -> SanitizeStatus:
    """Fixed format: of the upper count only whether it is zero, of the address the lower 24 bits.

    A progress that is not FFFFh is a running operation's. FFFFh is said of a settled drive, and of the last
    moment of a running one: that stays open.
    """
    if registers.lba & 0xFFFF == _NO_PROGRESS:
        return SanitizeStatus(failed=False, registers=registers)
    return SanitizeStatus(
        running=True,
        succeeded=False,
        failed=False,
        progress=_progress(registers),
        registers=registers,
    )


def _progress(registers: AtaReturn) -> float:
    return (registers.lba & 0xFFFF) / 65536


def refused_status(registers: AtaReturn | None) -> SanitizeStatus:
    """The error outputs; a drive refuses the status only after a failed operation."""
    number = registers.lba & 0xFF if registers is not None else 0
    return SanitizeStatus(
        running=False,
        succeeded=False,
        failed=True,
        reason=_REASONS.get(number, "the drive refuses to tell"),
        registers=registers,
    )
