"""What an interrupted erase left on an ATA drive: a password, a sanitize under way, or one that failed."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from teeth_agent.drives.ata import AtaDrive, AtaRefused
from teeth_agent.drives.ata_commands import Who
from teeth_agent.drives.ata_identity import AtaIdentity
from teeth_agent.errors import DeviceError

# Published, and the same for every drive: it keeps two erases apart, it keeps no secret. Whoever finds a
# drive locked by it may take it away.
PASSWORD = "TEETHERASE"  # noqa: S105
# The fifth wrong one makes the drive deaf to passwords until it loses power (ACS-4 4.18).
TRIES_IN_A_POWER_CYCLE = 4
_RELEASES = 3
# What other erasing tools use: hdparm's NULL is the empty one.
_EMPTY = ""
_OTHERS = ("maas", "SeaChest", "p")


class Found(Enum):
    """What was there, and how it is now."""

    NONE = "none"
    RUNNING = "running"  # a sanitize is under way: to be adopted
    FAILED = "failed"  # a sanitize has failed: to be done again
    RECOVERED = "recovered"  # a known password was in force and is gone
    LOCKED_STRANGER = "locked_stranger"  # a password that none of the known ones is
    EXPIRED = "expired"  # no password is looked at until power goes
    FROZEN = "frozen"  # a password is in force and cannot be changed until power goes


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """``tries``: wrong passwords given now. ``detail`` is a phrase for people."""

    found: Found
    tries: int = 0
    detail: str = ""

    @property
    def usable(self) -> bool:
        """Whether an erase may begin: the drive is neither locked nor busy."""
        return self.found in (Found.NONE, Found.RECOVERED, Found.FAILED)

    def to_json(self) -> dict[str, Any]:
        return {"found": self.found.value, "tries": self.tries, "detail": self.detail}


class Tries:
    """How many wrong passwords each drive got since this machine booted: for its process, or in a file in
    memory, so that an agent that starts again does not begin to count anew.

    ``turn``: see ``candidates``; None for chance.
    """

    def __init__(self, path: Path | None = None, *, turn: int | None = None) -> None:
        self.turn = random.randrange(1 << 16) if turn is None else turn  # noqa: S311 - no secret
        self._path = path
        self._counts: dict[str, int] = {}
        if path is not None:
            # What cannot be read has not been written whole: the agent died while it wrote.
            with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
                self._counts = {str(name): int(count) for name, count in json.loads(path.read_text()).items()}

    def left(self, drive: AtaIdentity) -> int:
        return max(0, TRIES_IN_A_POWER_CYCLE - max(0, self._counts.get(_name(drive), 0)))

    def note(self, drive: AtaIdentity) -> None:
        """To be called before the password is given."""
        self._counts[_name(drive)] = self._counts.get(_name(drive), 0) + 1
        self._save()

    def forget(self, drive: AtaIdentity) -> None:
        """A right password makes the drive count anew."""
        self._counts.pop(_name(drive), None)
        self._save()

    def _save(self) -> None:
        if self._path is None:
            return
        # Where no file can be kept this process still counts.
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(self._path.name + ".new")
            fresh.write_text(json.dumps(self._counts))
            fresh.replace(self._path)


def _name(drive: AtaIdentity) -> str:
    return f"{drive.model}/{drive.serial}"


def candidates(turn: int, *, master: bool) -> list[tuple[Who, str]]:
    """Passwords in the order in which they are tried: ours, the empty one, then the others, which begin
    elsewhere at each ``turn``, so that some power cycles try them all."""
    rest = [(Who.USER, password) for password in _OTHERS]
    rest += [(Who.MASTER, password) for password in (PASSWORD, _EMPTY, *_OTHERS)] if master else []
    start = turn * (TRIES_IN_A_POWER_CYCLE - 2) % len(rest)
    return [(Who.USER, PASSWORD), (Who.USER, _EMPTY), *rest[start:], *rest[:start]]


def recover(drive: AtaDrive, tries: Tries | None = None) -> Leftover:
    """Look for what was left, and take a known password away.

    Gives at most four wrong passwords in a power cycle, less what ``tries`` has counted. Raises DeviceError
    when the drive does not answer.
    """
    identity = drive.identify()
    security = identity.security
    if (left := _sanitize(drive, identity)) is not None:
        return left
    if not security.supported:
        return Leftover(found=Found.NONE)
    if not (security.enabled or security.locked):
        return _denied(drive)
    if security.frozen:
        detail = "a password is in force and the drive is frozen; it needs a power cycle"
        return Leftover(found=Found.FROZEN, detail=detail)
    if security.expired:
        return _expired(0)
    return _try(drive, identity, tries or Tries())


def _sanitize(drive: AtaDrive, identity: AtaIdentity) -> Leftover | None:
    if not identity.sanitize.supported:
        return None
    status = drive.sanitize_status()
    if status.failed:
        return Leftover(found=Found.FAILED, detail=status.reason)
    if status.running:
        return Leftover(found=Found.RUNNING, detail="a sanitize operation is under way")
    if status.running is None and not identity.security.locked and not drive.reads():
        detail = "the medium is closed, and the sanitize status does not come through"
        return Leftover(found=Found.RUNNING, detail=detail)
    return None


def _denied(drive: AtaDrive) -> Leftover:
    """A drive that says it has no password. Where its medium is closed all the same, ours is tried once."""
    if drive.reads():
        return Leftover(found=Found.NONE)
    try:
        drive.unlock(Who.USER, PASSWORD)
        drive.disable_password(Who.USER, PASSWORD)
    except AtaRefused:
        return Leftover(found=Found.NONE, tries=1, detail="the medium cannot be read")
    return Leftover(found=Found.RECOVERED, detail="a password was in force of which the drive said nothing")


def _try(drive: AtaDrive, identity: AtaIdentity, tries: Tries) -> Leftover:
    security, wrong = identity.security, 0
    passwords = candidates(tries.turn, master=not security.maximum)
    for who, password in passwords[: tries.left(identity)]:
        tries.note(identity)
        try:
            if security.locked:
                drive.unlock(who, password)
            drive.disable_password(who, password)
        except AtaRefused:
            wrong += 1
        security = drive.identify().security
        if not (security.enabled or security.locked):
            tries.forget(identity)
            detail = f"the {who.name.lower()} password {password or '(empty)'} was in force"
            return Leftover(found=Found.RECOVERED, tries=wrong, detail=detail)
        if security.expired:
            return _expired(wrong)
    detail = "none of the known passwords tried so far opens it"
    return Leftover(found=Found.LOCKED_STRANGER, tries=wrong, detail=detail)


def _expired(wrong: int) -> Leftover:
    detail = "too many wrong passwords were given; it needs a power cycle"
    return Leftover(found=Found.EXPIRED, tries=wrong, detail=detail)


def release(drive: AtaDrive) -> None:
    """See to it that our password is not in force, whatever the drive says of it.

    Raises DeviceError(drive_left_locked), the password in its text.
    """
    why = "the password stays in force"
    for _ in range(_RELEASES):
        try:
            security = drive.identify().security
            if not (security.enabled or security.locked):
                # A drive may forget to say so: what is not in force the drive refuses to take away.
                with contextlib.suppress(AtaRefused):
                    drive.disable_password(Who.USER, PASSWORD)
                return
            if security.frozen or security.expired:
                why = "it takes no password until it loses power"
                break
            if security.locked:
                drive.unlock(Who.USER, PASSWORD)
            drive.disable_password(Who.USER, PASSWORD)
        except DeviceError as error:
            why = str(error)
    else:
        with contextlib.suppress(DeviceError):
            security = drive.identify().security
            if not (security.enabled or security.locked):
                return
    raise left_locked(drive, why)


def left_locked(drive: AtaDrive, why: str) -> DeviceError:
    return DeviceError(
        f"{drive.name} may be locked by the user password {PASSWORD}: {why}; after a power cycle: "
        f"hdparm --user-master u --security-unlock {PASSWORD} {drive.name}, then --security-disable",
        code="drive_left_locked",
    )
