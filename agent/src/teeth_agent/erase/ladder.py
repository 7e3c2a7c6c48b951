"""Which methods are tried on a unit, best first: pure, from what it is and can do to rungs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from teeth_agent.erase.capabilities import (
    AtaCapabilities,
    AtaSecurity,
    Capabilities,
    NvmeCapabilities,
    PlainCapabilities,
    Sanitizes,
    ScsiCapabilities,
    UnitKind,
)
from teeth_agent.erase.model import Method, Rung
from teeth_agent.erase.policy import Policy, Verification

_OVERWRITE = Rung(methods=(Method.OVERWRITE,))


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedOver:
    """A rung that is not climbed, and why."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """``rungs`` in the order in which they are climbed."""

    rungs: tuple[Rung, ...]
    passed_over: tuple[PassedOver, ...]


def choose_methods(kind: UnitKind, capabilities: Capabilities, policy: Policy) -> tuple[Rung, ...]:
    """The rungs for a unit, best first; none when its grade cannot reach what is required."""
    return make_ladder(kind, capabilities, policy).rungs


def make_ladder(kind: UnitKind, capabilities: Capabilities, policy: Policy) -> Ladder:
    """``choose_methods``, with what was left out."""
    rungs, passed = _offered(kind, capabilities)
    climbed: list[Rung] = []
    for rung in rungs:
        if not rung.grade.reaches(policy.required):
            passed.append(PassedOver(name=rung.name, reason=f"only {rung.grade.value}"))
        elif climbed and not policy.fallback:
            passed.append(PassedOver(name=rung.name, reason="params.fallback is false"))
        else:
            climbed.append(_with_overwrite(rung) if policy.verification is Verification.OVERWRITE else rung)
    return Ladder(rungs=tuple(climbed), passed_over=tuple(passed))


def _with_overwrite(rung: Rung) -> Rung:
    return rung if rung == _OVERWRITE else replace(rung, methods=(*rung.methods, Method.OVERWRITE))


_Found = tuple[list[Rung], list[PassedOver]]


def _offered(kind: UnitKind, capabilities: Capabilities) -> _Found:
    """Every rung that the drive offers, whatever is required."""
    match kind, capabilities:
        case UnitKind.NVME, NvmeCapabilities():
            rungs, passed = _nvme(capabilities)
        case UnitKind.SATA_SSD | UnitKind.SATA_HDD, AtaCapabilities():
            rungs, passed = _ata(capabilities, spins=kind is UnitKind.SATA_HDD)
        case UnitKind.SCSI_SSD | UnitKind.SCSI_HDD, ScsiCapabilities():
            rungs, passed = _scsi(capabilities, spins=kind is UnitKind.SCSI_HDD)
        case _:
            rungs, passed = (
                [],
                [PassedOver(name="all but overwrite", reason=_plain_reason(kind, capabilities))],
            )
    return [*rungs, _OVERWRITE], passed


def _plain_reason(kind: UnitKind, capabilities: Capabilities) -> str:
    if isinstance(capabilities, PlainCapabilities):
        return capabilities.reason
    return f"what this drive answers is not to be used on {kind.value}"


def _nvme(drive: NvmeCapabilities) -> _Found:
    rungs = _crypto_and_block(drive.sanitizes, Method.NVME_SANITIZE_CRYPTO, Method.NVME_SANITIZE_BLOCK) + _if(
        drive.sanitizes.overwrite, Method.NVME_SANITIZE_OVERWRITE
    )
    rungs, passed = _unless_frozen(rungs, drive.sanitizes)
    rungs += _if(drive.format and drive.format_crypto, Method.NVME_FORMAT_CRYPTO)
    rungs += _if(drive.format, Method.NVME_FORMAT_USER_DATA)
    return rungs, passed


def _ata(drive: AtaCapabilities, *, spins: bool) -> _Found:
    offered = drive.sanitizes
    if spins:
        # One pass over every sector proves more than a key that is said to be gone.
        rungs = _if(offered.overwrite, Method.ATA_SANITIZE_OVERWRITE)
        rungs += _if(offered.crypto, Method.ATA_SANITIZE_CRYPTO)
    else:
        rungs = _crypto_and_block(offered, Method.ATA_SANITIZE_CRYPTO, Method.ATA_SANITIZE_BLOCK)
    rungs, passed = _unless_frozen(rungs, offered)
    secured, over = _security(drive.security)
    return rungs + secured, passed + over


def _security(security: AtaSecurity) -> _Found:
    rungs = _if(security.supported and security.enhanced, Method.ATA_SECURITY_ERASE_ENHANCED)
    rungs += _if(security.supported, Method.ATA_SECURITY_ERASE)
    if security.frozen:
        reason = "frozen: the drive takes no security command until it loses power"
        return [], [PassedOver(name=rung.name, reason=reason) for rung in rungs]
    return rungs, []


def _scsi(drive: ScsiCapabilities, *, spins: bool) -> _Found:
    offered = drive.sanitizes
    if spins:
        rungs = _if(offered.crypto, Method.SCSI_SANITIZE_CRYPTO)
        rungs += _if(offered.overwrite, Method.SCSI_SANITIZE_OVERWRITE)
    else:
        rungs = _crypto_and_block(offered, Method.SCSI_SANITIZE_CRYPTO, Method.SCSI_SANITIZE_BLOCK)
    rungs, passed = _unless_frozen(rungs, offered)
    return rungs + _if(drive.format, Method.SCSI_FORMAT), passed


def _crypto_and_block(offered: Sanitizes, crypto: Method, block: Method) -> list[Rung]:
    """Both as one rung where both are offered: the key first, then what it was the key to."""
    methods = ((crypto,) if offered.crypto else ()) + ((block,) if offered.block else ())
    return [Rung(methods=methods)] if methods else []


def _unless_frozen(rungs: list[Rung], offered: Sanitizes) -> _Found:
    if not offered.frozen:
        return rungs, []
    reason = "sanitize is frozen until the drive loses power"
    return [], [PassedOver(name=rung.name, reason=reason) for rung in rungs]


def _if(offered: bool, method: Method) -> list[Rung]:
    return [Rung(methods=(method,))] if offered else []
