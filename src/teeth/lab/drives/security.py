"""The ATA Security feature set (ACS-4 4.18 and 7.42 to 7.47): a state machine without a device around it."""

from __future__ import annotations

from enum import Enum

from teeth.lab.drives.model import Security
from teeth.lab.drives.taskfile import AtaError

ATTEMPTS = 5


class SecState(Enum):
    """ACS-4 figure 10; SEC0 is without power."""

    DISABLED = "SEC1"
    DISABLED_FROZEN = "SEC2"
    LOCKED = "SEC4"
    UNLOCKED = "SEC5"
    UNLOCKED_FROZEN = "SEC6"


class SecurityModel:
    """Passwords and modes. ``kept`` outlives power, all else starts anew with it. Refusals are AtaError."""

    def __init__(self, kept: Security) -> None:
        self.kept = kept
        self.frozen = False
        self.locked = bool(kept.user)
        self.attempts = ATTEMPTS
        self._prepared = False

    @property
    def enabled(self) -> bool:
        return bool(self.kept.user)

    @property
    def expired(self) -> bool:
        """No password is looked at any more until power goes."""
        return self.attempts == 0

    @property
    def state(self) -> SecState:
        if not self.enabled:
            return SecState.DISABLED_FROZEN if self.frozen else SecState.DISABLED
        if self.locked:
            return SecState.LOCKED
        return SecState.UNLOCKED_FROZEN if self.frozen else SecState.UNLOCKED

    def power_on(self) -> None:
        """SEC0 to SEC1 or SEC4; also a hardware reset without software settings preservation."""
        self.frozen = False
        self.locked = self.enabled
        self.attempts = ATTEMPTS
        self._prepared = False

    def other_command(self) -> None:
        """Any command but SECURITY ERASE UNIT takes SECURITY ERASE PREPARE back (ACS-4 7.43)."""
        self._prepared = False

    # --- the commands

    def set_password(self, data: bytes) -> None:
        self._require(not self.frozen and not self.locked)
        text = data[2:34].hex()
        if data[0] & 0x01:
            self.kept.master = text
            identifier = int.from_bytes(data[34:36], "little")
            if identifier not in (0, 0xFFFF):
                self.kept.master_id = identifier
            return
        self.kept.user = text
        self.kept.maximum = bool(data[1] & 0x01)

    def unlock(self, data: bytes) -> None:
        self._require(not self.frozen and not self.expired)
        if self._opens(data):
            self.locked = False
            self.attempts = ATTEMPTS
            return
        if self.locked:
            self.attempts -= 1
        raise AtaError

    def disable(self, data: bytes) -> None:
        self._require(not self.frozen and not self.locked)
        self._require(self._opens(data))
        self._clear_user()

    def freeze(self) -> None:
        self._require(not self.locked)
        self.frozen = True

    def prepare(self) -> None:
        self._require(not self.frozen)
        self._prepared = True

    def allow_erase(self, data: bytes) -> None:
        """Whether SECURITY ERASE UNIT may begin. A master password erases at level maximum too."""
        prepared, self._prepared = self._prepared, False
        self._require(prepared and not self.frozen and not self.expired)
        self._require(self._matches(data))

    def erased(self) -> None:
        """An erase ended well: the user password is gone, the master password is not."""
        self._clear_user()

    def _clear_user(self) -> None:
        self.kept.user = ""
        self.kept.maximum = False
        self.locked = False

    def _opens(self, data: bytes) -> bool:
        """Whether the password opens the drive: at level maximum the master's does not."""
        return self._matches(data) and not (data[0] & 0x01 and self.kept.maximum)

    def _matches(self, data: bytes) -> bool:
        text = data[2:34].hex()
        if data[0] & 0x01:
            return text == self.kept.master
        return self.enabled and text == self.kept.user

    @staticmethod
    def _require(well: bool) -> None:
        if not well:
            raise AtaError
