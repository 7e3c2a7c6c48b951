"""What a cable and the switch port behind it do to frames: a pure function of frames and time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from teeth.errors import UsageError

_VLAN_MAX = 4094
_TAG = b"\x81\x00"  # IEEE 802.1Q: the Ethertype of a tag
_ADDRESSES = 12  # bytes of a frame in front of its Ethertype: two MAC addresses
_SECONDS_MAX = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkQuality:
    """How good a cable is, and what the switch port behind it does.

    ``delay`` and ``jitter`` in seconds, each way: a frame takes delay to delay + jitter, and none overtakes
    another. ``loss``: the share of frames that are lost, 0 to 1, each way. ``forwarding_delay``: seconds for
    which the port lets nothing through after the machine begins to use the link, as a spanning tree does.
    ``vlan``: the port is an access port of that VLAN: tagged on the bridge, untagged to the machine. None: a
    trunk, frames pass as they are. ``seed`` makes the losses repeatable. Raises UsageError.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    forwarding_delay: float = 0.0
    vlan: int | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("delay", "jitter", "forwarding_delay"):
            if not 0 <= getattr(self, name) <= _SECONDS_MAX:
                raise UsageError(f"a link's {name} is 0 to {_SECONDS_MAX:g} s, not {getattr(self, name):g}")
        if not 0 <= self.loss <= 1:
            raise UsageError(f"a link's loss is a share of 0 to 1, not {self.loss:g}")
        if self.vlan is not None and not 1 <= self.vlan <= _VLAN_MAX:
            raise UsageError(f"a VLAN is 1 to {_VLAN_MAX}, not {self.vlan}")


PERFECT = LinkQuality()


class Cable:
    """One cable in use. ``quality`` and ``cut`` may change at any time; a cut cable has a carrier and lets
    nothing through."""

    def __init__(self, quality: LinkQuality) -> None:
        self.quality = quality
        self.cut = False
        self._random = random.Random(quality.seed)  # noqa: S311 - which frames are lost is no secret
        self._opens: float | None = None
        self._last = {True: 0.0, False: 0.0}

    def carrier(self) -> None:
        """The carrier went or came: the port behind begins anew, at the machine's next frame."""
        self._opens = None

    def take(self, frame: bytes, now: float, *, outward: bool) -> tuple[float, bytes] | None:
        """When and how a frame arrives at the other end; None when it never does.

        ``outward``: from the machine to the bridge. A machine's first frame is what shows that it uses the
        link: a virtual cable has its carrier all the time.
        """
        if outward and self._opens is None:
            self._opens = now + self.quality.forwarding_delay
        closed = self._opens is None or now < self._opens
        if self.cut or (closed and self.quality.forwarding_delay):
            return None
        if self.quality.loss and self._random.random() < self.quality.loss:
            return None
        if self.quality.vlan is not None:
            changed = tagged(frame, self.quality.vlan) if outward else untagged(frame, self.quality.vlan)
            if changed is None:
                return None
            frame = changed
        due = now + self.quality.delay
        if self.quality.jitter:
            due += self._random.uniform(0, self.quality.jitter)
        due = self._last[outward] = max(due, self._last[outward])
        return due, frame


def tagged(frame: bytes, vlan: int) -> bytes | None:
    """A machine's untagged frame with the tag of ``vlan``; None for one that an access port refuses: it has
    a tag of its own, or is no frame."""
    if len(frame) < _ADDRESSES + 2 or frame[_ADDRESSES : _ADDRESSES + 2] == _TAG:
        return None
    return frame[:_ADDRESSES] + _TAG + vlan.to_bytes(2, "big") + frame[_ADDRESSES:]


def untagged(frame: bytes, vlan: int) -> bytes | None:
    """A frame of ``vlan`` without its tag; None for one of no or of another VLAN."""
    if len(frame) < _ADDRESSES + 4 or frame[_ADDRESSES : _ADDRESSES + 2] != _TAG:
        return None
    tag = int.from_bytes(frame[_ADDRESSES + 2 : _ADDRESSES + 4], "big")
    return frame[:_ADDRESSES] + frame[_ADDRESSES + 4 :] if tag & 0xFFF == vlan else None
