"""Login and its keys (RFC 7143 6 and 13): what a session agrees on, and who may have one."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

SEGMENT_MAX = 256 << 10  # one PDU's data, both ways
BURST_MAX = 1 << 20
FIRST_BURST_MAX = 256 << 10


class LoginRefusedError(Exception):
    """The login ends with this status (RFC 7143 11.13.5)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


INITIATOR_ERROR = 0x0200
AUTHENTICATION_FAILURE = 0x0201
NOT_FOUND = 0x0203
UNSUPPORTED_VERSION = 0x0205
MISSING_PARAMETER = 0x0207
TOO_MANY = 0x0302


@dataclass(slots=True, kw_only=True)
class Agreed:
    """What both ends hold to, with RFC 7143's defaults."""

    their_segment: int = 8192
    initial_r2t: bool = True
    immediate_data: bool = True
    max_burst: int = 262144
    first_burst: int = 65536
    declared: bool = False


@dataclass(slots=True, kw_only=True)
class Chap:
    """CHAP with MD5 (RFC 7143 12.1.3): who, the secret they must know, and the challenge of this login."""

    user: str
    secret: str
    identifier: int = field(default_factory=lambda: secrets.randbelow(256))
    challenge: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    def first(self) -> list[tuple[str, str]]:
        return [("CHAP_A", "5"), ("CHAP_I", str(self.identifier)), ("CHAP_C", "0x" + self.challenge.hex())]

    def verify(self, name: str, response: str) -> bool:
        text = bytes((self.identifier,)) + self.secret.encode() + self.challenge
        wanted = hashlib.md5(text, usedforsecurity=False).digest()
        try:
            given = bytes.fromhex(response.removeprefix("0x").removeprefix("0X"))
        except ValueError:
            return False
        return hmac.compare_digest(wanted, given) and hmac.compare_digest(name.encode(), self.user.encode())


def negotiate(agreed: Agreed, keys: Mapping[str, str]) -> list[tuple[str, str]]:
    """Our answers to the operational keys of one login request; ``agreed`` is brought up to date.

    Raises LoginRefusedError for values that no initiator may send.
    """
    answers: list[tuple[str, str]] = []
    for name, value in keys.items():
        answer = _answer(agreed, name, value)
        if answer is not None:
            answers.append((name, answer))
    if not agreed.declared and keys:
        agreed.declared = True
        answers.append(("MaxRecvDataSegmentLength", str(SEGMENT_MAX)))
    return answers


_SILENT = frozenset(
    {
        "InitiatorName",
        "InitiatorAlias",
        "TargetName",
        "SessionType",
        "AuthMethod",
        "CHAP_A",
        "CHAP_N",
        "CHAP_R",
    }
)
# Keys that have one outcome with us, whatever is offered.
_FIXED = {
    "MaxConnections": "1",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "MaxOutstandingR2T": "1",
    "DataPDUInOrder": "Yes",
    "DataSequenceInOrder": "Yes",
    "ErrorRecoveryLevel": "0",
    "IFMarker": "No",
    "OFMarker": "No",
    "TaskReporting": "RFC3720",
    "iSCSIProtocolLevel": "1",
}


def _answer(agreed: Agreed, name: str, value: str) -> str | None:
    if name in _SILENT:
        return None
    if name in _FIXED:
        return _FIXED[name]
    match name:
        case "HeaderDigest" | "DataDigest":
            return "None" if "None" in value.split(",") else "Reject"
        case "MaxRecvDataSegmentLength":
            agreed.their_segment = min(_number(name, value, 512, (1 << 24) - 1), SEGMENT_MAX)
            return None
        case "MaxBurstLength":
            agreed.max_burst = min(_number(name, value, 512, (1 << 24) - 1), BURST_MAX)
            return str(agreed.max_burst)
        case "FirstBurstLength":
            agreed.first_burst = min(_number(name, value, 512, (1 << 24) - 1), FIRST_BURST_MAX)
            return str(agreed.first_burst)
        case "InitialR2T":
            agreed.initial_r2t = _yes(name, value)  # OR with our No
            return "Yes" if agreed.initial_r2t else "No"
        case "ImmediateData":
            agreed.immediate_data = _yes(name, value)  # AND with our Yes
            return "Yes" if agreed.immediate_data else "No"
        case _:
            return "NotUnderstood"


def _number(name: str, value: str, least: int, most: int) -> int:
    try:
        number = int(value, 0)
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise LoginRefusedError(INITIATOR_ERROR, f"{name}={value[:40]!r} is no number from {least} to {most}")
    return number


def _yes(name: str, value: str) -> bool:
    if value not in ("Yes", "No"):
        raise LoginRefusedError(INITIATOR_ERROR, f"{name}={value[:40]!r} is neither Yes nor No")
    return value == "Yes"
