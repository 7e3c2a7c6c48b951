"""What an NVMe drive is made as."""

from __future__ import annotations

from dataclasses import dataclass

from teeth.errors import UsageError
from teeth.lab.drives.model import DriveSpec

UNIT = 512  # bytes of a block of the medium: addresses of faults and extents count these
NAMESPACES_MAX = 32
# Namespaces begin and end on this many units, so that both block sizes fit.
GRANULE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class NamespaceSpec:
    """A namespace from the factory. ``blocks`` of 512 bytes; ``sector`` is the size its users see."""

    blocks: int
    sector: int = UNIT
    attached: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NvmeSpec(DriveSpec):
    """One NVMe drive; ``blocks`` of 512 bytes are its whole capacity. Without ``namespaces`` it has one over
    all.

    ``format_all``, ``erase_all``: a format, or a secure erase by one, is for every namespace (FNA bits 0, 1).
    ``formats``: has Format NVM; ``crypto_format``: SES 2 too. ``manages``: has namespace management.
    ``no_deallocate``: what blocks are after a sanitize that was told not to deallocate them: kept, modified,
    or "inhibited", where it may not be told so. ``slots`` of firmware, the first of which
    ``first_slot_fixed`` keeps. ``nqn``: the subsystem's name, by default made of the drive's.
    Raises UsageError for what no drive can be.
    """

    namespaces: tuple[NamespaceSpec, ...] = ()
    format_all: bool = False
    erase_all: bool = False
    formats: bool = True
    crypto_format: bool = True
    manages: bool = True
    no_deallocate: str = "kept"
    slots: int = 3
    first_slot_fixed: bool = False
    nqn: str = ""

    def __post_init__(self) -> None:
        DriveSpec.__post_init__(self)
        what = f"drive {self.name}"
        if self.sector != UNIT:
            raise UsageError(
                f"{what}: an NVMe drive counts its size in 512-byte blocks; sector is a namespace's"
            )
        if self.no_deallocate not in ("kept", "modified", "inhibited"):
            raise UsageError(
                f"{what}: no_deallocate {self.no_deallocate!r} is none of kept, modified, inhibited"
            )
        if not 1 <= self.slots <= 7:
            raise UsageError(f"{what}: {self.slots} firmware slots are not 1 to 7")
        if len(self.nqn.encode()) > 223 or (self.nqn and not self.nqn.startswith("nqn.")):
            raise UsageError(f"{what}: nqn {self.nqn!r} is no NVMe qualified name")
        self._check_namespaces(what)

    def _check_namespaces(self, what: str) -> None:
        if len(self.namespaces) > NAMESPACES_MAX:
            raise UsageError(f"{what}: more than {NAMESPACES_MAX} namespaces")
        for number, namespace in enumerate(self.namespaces, 1):
            if namespace.sector not in (512, 4096):
                raise UsageError(
                    f"{what}: namespace {number}: sector {namespace.sector} is neither 512 nor 4096"
                )
            if namespace.blocks < GRANULE or namespace.blocks % GRANULE:
                raise UsageError(f"{what}: namespace {number} is not a whole number of 4096 bytes")
        if sum(namespace.blocks for namespace in self.namespaces) > self.blocks:
            raise UsageError(f"{what}: its namespaces are larger than the drive")

    @property
    def subsystem(self) -> str:
        return self.nqn or f"nqn.2015-01.lab.teeth:{self.name}"

    @property
    def factory(self) -> tuple[NamespaceSpec, ...]:
        """The namespaces it leaves the factory with."""
        return self.namespaces or (NamespaceSpec(blocks=self.blocks // GRANULE * GRANULE),)
