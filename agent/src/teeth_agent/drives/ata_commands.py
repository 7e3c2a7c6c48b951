"""ATA commands as ATA PASS-THROUGH (16) carries them (SAT-4 12.2.3, ACS-4 7, ACS-2 for HPA and DCO)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

# What the makers ask to stand in the address, so that no stray command erases: ASCII (ACS-4 7.36).
CRYPTO_KEY, BLOCK_KEY, OVERWRITE_KEY = 0x43727970, 0x426B4572, 0x4F57
FREEZE_KEY, ANTIFREEZE_KEY = 0x46724C6B, 0x416E7469
PASSWORD_BYTES = 32
_SECTOR = 512
_LBA_MODE = 0x40
_28BIT = (1 << 28) - 1
_CK_COND, _TO_HOST, _BLOCKS, _BY_COUNT = 0x20, 0x08, 0x04, 0x02


class Way(Enum):
    """Protocols of SAT-4 table 152: which way the data go."""

    NONE = 3
    IN = 4
    OUT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class AtaCommand:
    """Registers of one command. ``line``: what hdparm is called with to do the same, without the device;
    empty where it has no such thing. ``changes`` tells commands that change the drive from mere questions."""

    name: str
    opcode: int
    features: int = 0
    count: int = 0
    lba: int = 0
    long: bool = False
    way: Way = Way.NONE
    line: str = ""
    changes: bool = True

    def cdb(self) -> bytes:
        """The 16 bytes. The registers are asked for (CK_COND) unless data come in: those prove themselves."""
        flags = 0 if self.way is Way.IN else _CK_COND
        if self.way is not Way.NONE:
            flags |= _BLOCKS | _BY_COUNT | (_TO_HOST if self.way is Way.IN else 0)
        low = self.lba.to_bytes(6, "little")
        device = _LBA_MODE
        if not self.long:
            assert self.lba <= _28BIT, self.name
            assert self.features < 256 > self.count, self.name
            device |= low[3] & 0x0F
            low = low[:3] + bytes(3)
        return bytes(
            (
                *(0x85, self.way.value << 1 | int(self.long), flags),
                *self.features.to_bytes(2, "big"),
                *self.count.to_bytes(2, "big"),
                *(low[3], low[0], low[4], low[1], low[5], low[2]),
                *(device, self.opcode, 0),
            )
        )


IDENTIFY = AtaCommand(name="IDENTIFY DEVICE", opcode=0xEC, count=1, way=Way.IN, line="-I", changes=False)
SECURITY_PREPARE = AtaCommand(name="SECURITY ERASE PREPARE", opcode=0xF3)
SECURITY_FREEZE = AtaCommand(name="SECURITY FREEZE LOCK", opcode=0xF5, line="--security-freeze")
DCO_IDENTIFY = AtaCommand(
    name="DEVICE CONFIGURATION IDENTIFY", opcode=0xB1, features=0xC2, count=1, way=Way.IN,
    line="--dco-identify", changes=False,
)  # fmt: skip
DCO_RESTORE = AtaCommand(
    name="DEVICE CONFIGURATION RESTORE", opcode=0xB1, features=0xC0,
    line="--yes-i-know-what-i-am-doing --dco-restore",
)  # fmt: skip
AMA_NATIVE = AtaCommand(
    name="GET NATIVE MAX ADDRESS EXT", opcode=0x78, features=0x0000, long=True, changes=False
)
VERIFY_FIRST = AtaCommand(
    name="READ VERIFY SECTOR(S)", opcode=0x40, count=1, line="--read-sector 0", changes=False
)


def read_native_max(*, long: bool) -> AtaCommand:
    """READ NATIVE MAX ADDRESS (EXT), obsolete since ACS-3."""
    return AtaCommand(
        name="READ NATIVE MAX ADDRESS", opcode=0x27 if long else 0xF8, long=long, line="-N", changes=False
    )


def set_max(last: int, *, long: bool, keep: bool) -> AtaCommand:
    """SET MAX ADDRESS (EXT) to the last address; ``keep``: over a power cycle, at most once in each."""
    line = f"--yes-i-know-what-i-am-doing -N {'p' if keep else ''}{last + 1}"
    return AtaCommand(
        name="SET MAX ADDRESS", opcode=0x37 if long else 0xF9, count=int(keep), lba=last, long=long, line=line
    )


def set_accessible_max(last: int) -> AtaCommand:
    return AtaCommand(
        name="SET ACCESSIBLE MAX ADDRESS EXT", opcode=0x78, features=0x0001, lba=last, long=True
    )


def sanitize_status(*, clear_failed: bool) -> AtaCommand:
    """SANITIZE STATUS EXT, ``clear_failed``: leave the failed state, if the operation allowed that."""
    return AtaCommand(
        name="SANITIZE STATUS EXT", opcode=0xB4, features=0x0000, count=int(clear_failed), long=True,
        line="--sanitize-status", changes=clear_failed,
    )  # fmt: skip


def sanitize_crypto(*, exit_allowed: bool) -> AtaCommand:
    return _sanitize("CRYPTO SCRAMBLE EXT", 0x0011, CRYPTO_KEY, _exit(exit_allowed), "crypto-scramble")


def sanitize_block(*, exit_allowed: bool) -> AtaCommand:
    return _sanitize("BLOCK ERASE EXT", 0x0012, BLOCK_KEY, _exit(exit_allowed), "block-erase")


def sanitize_overwrite(*, exit_allowed: bool) -> AtaCommand:
    """One pass of zeros, not inverted; a count of 0 would be 16 passes."""
    action = "overwrite-passes 1 --sanitize-overwrite hex:00000000"
    return _sanitize("OVERWRITE EXT", 0x0014, OVERWRITE_KEY << 32, _exit(exit_allowed) | 1, action)


def sanitize_antifreeze() -> AtaCommand:
    """Until power goes nobody can freeze Sanitize any more."""
    return _sanitize("SANITIZE ANTIFREEZE LOCK EXT", 0x0040, ANTIFREEZE_KEY, 0, "antifreeze-lock", sure="")


def _exit(exit_allowed: bool) -> int:
    return 0x10 if exit_allowed else 0


def _sanitize(
    name: str, feature: int, key: int, count: int, action: str, sure: str = "--yes-i-know-what-i-am-doing "
) -> AtaCommand:
    line = f"{sure}--sanitize-{action}"
    return AtaCommand(name=name, opcode=0xB4, features=feature, count=count, lba=key, long=True, line=line)


class Who(Enum):
    """Whose password."""

    USER = 0
    MASTER = 1

    @property
    def letter(self) -> str:
        return "u" if self is Who.USER else "m"


def security_set_password(password: str) -> tuple[AtaCommand, bytes]:
    """Always the user's password, always of level high: the master's stays as it is and opens the drive."""
    return _security(0xF1, "SECURITY SET PASSWORD", "set-pass", Who.USER, password, 0)


def security_unlock(who: Who, password: str) -> tuple[AtaCommand, bytes]:
    return _security(0xF2, "SECURITY UNLOCK", "unlock", who, password, 0)


def security_disable(who: Who, password: str) -> tuple[AtaCommand, bytes]:
    return _security(0xF6, "SECURITY DISABLE PASSWORD", "disable", who, password, 0)


def security_erase(who: Who, password: str, *, enhanced: bool) -> tuple[AtaCommand, bytes]:
    """SECURITY ERASE UNIT; SECURITY ERASE PREPARE must be the command right before."""
    action = "erase-enhanced" if enhanced else "erase"
    return _security(0xF4, "SECURITY ERASE UNIT", action, who, password, 0x02 if enhanced else 0)


def _security(
    opcode: int, name: str, action: str, who: Who, password: str, flags: int
) -> tuple[AtaCommand, bytes]:
    """The command and its 512 bytes (ACS-4 tables 177 to 179)."""
    text = password.encode("ascii")
    assert len(text) <= PASSWORD_BYTES, password
    line = f"--user-master {who.letter} --security-{action} {password or 'NULL'}"
    data = (bytes((who.value | flags, 0)) + text.ljust(PASSWORD_BYTES, b"\0")).ljust(_SECTOR, b"\0")
    return AtaCommand(name=name, opcode=opcode, count=1, way=Way.OUT, line=line), data
