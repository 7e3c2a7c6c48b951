"""The decision table: one row for each row of the ladder, and for what the ladder does not climb. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes.disks import medium, nvme_medium
from teeth_agent.erase.capabilities import (
    AtaCapabilities,
    AtaSecurity,
    NvmeCapabilities,
    PlainCapabilities,
    Sanitizes,
    ScsiCapabilities,
    UnitKind,
    kind_of,
)
from teeth_agent.erase.ladder import choose_methods, make_ladder
from teeth_agent.erase.model import Grade, Leaves, Method, Rung, group_units
from teeth_agent.erase.policy import Policy, Verification

ALL = Sanitizes(crypto=True, block=True, overwrite=True)
BLOCK = Sanitizes(block=True)
KEY = Sanitizes(crypto=True)
FROZEN = replace(ALL, frozen=True)
SECURED = AtaSecurity(supported=True, enhanced=True)
ATA = AtaCapabilities(sanitizes=ALL, security=SECURED)
SCSI = ScsiCapabilities(sanitizes=ALL, format=True)
FLASH = replace(SCSI, rotational=False)
NVME = NvmeCapabilities(sanitizes=ALL, format=True, format_crypto=True)
PLAIN = PlainCapabilities(reason="nothing is known of it")

# Unit, what it can do -> rung:grade, best first. The names are the wire's.
TABLE = [
    # NVMe: sanitize crypto then block, sanitize overwrite, format by key, format of user data, overwrite
    (
        UnitKind.NVME,
        NVME,
        "nvme_sanitize_crypto+nvme_sanitize_block:purge nvme_sanitize_overwrite:purge"
        " nvme_format_crypto:purge nvme_format_user_data:clear overwrite:clear",
    ),
    (
        UnitKind.NVME,
        NvmeCapabilities(sanitizes=Sanitizes(block=True)),
        "nvme_sanitize_block:purge overwrite:clear",
    ),
    (
        UnitKind.NVME,
        NvmeCapabilities(sanitizes=Sanitizes(crypto=True)),
        "nvme_sanitize_crypto:purge overwrite:clear",
    ),
    (
        UnitKind.NVME,
        NvmeCapabilities(sanitizes=Sanitizes(overwrite=True)),
        "nvme_sanitize_overwrite:purge overwrite:clear",
    ),
    (UnitKind.NVME, NvmeCapabilities(format=True), "nvme_format_user_data:clear overwrite:clear"),
    (UnitKind.NVME, NvmeCapabilities(format_crypto=True), "overwrite:clear"),
    (UnitKind.NVME, NvmeCapabilities(), "overwrite:clear"),
    # SATA SSD: sanitize crypto + block, enhanced security erase, security erase, overwrite
    (
        UnitKind.SATA_SSD,
        ATA,
        "ata_sanitize_crypto+ata_sanitize_block:purge ata_security_erase_enhanced:purge"
        " ata_security_erase:clear overwrite:clear",
    ),
    (
        UnitKind.SATA_SSD,
        AtaCapabilities(security=AtaSecurity(supported=True)),
        "ata_security_erase:clear overwrite:clear",
    ),
    (UnitKind.SATA_SSD, AtaCapabilities(), "overwrite:clear"),
    # SATA HDD: sanitize overwrite, crypto scramble, enhanced security erase, security erase, overwrite
    (
        UnitKind.SATA_HDD,
        ATA,
        "ata_sanitize_overwrite:purge ata_sanitize_crypto:purge ata_security_erase_enhanced:purge"
        " ata_security_erase:clear overwrite:clear",
    ),
    # Frozen drives: sanitize freezes apart from security
    (
        UnitKind.SATA_SSD,
        replace(ATA, security=replace(SECURED, frozen=True)),
        "ata_sanitize_crypto+ata_sanitize_block:purge overwrite:clear",
    ),
    (
        UnitKind.SATA_HDD,
        replace(ATA, sanitizes=FROZEN),
        "ata_security_erase_enhanced:purge ata_security_erase:clear overwrite:clear",
    ),
    # SAS / SCSI: sanitize crypto, block (SSD), overwrite (HDD); format; overwrite
    (
        UnitKind.SCSI_SSD,
        SCSI,
        "scsi_sanitize_crypto+scsi_sanitize_block:purge scsi_format:clear overwrite:clear",
    ),
    (
        UnitKind.SCSI_HDD,
        SCSI,
        "scsi_sanitize_crypto:purge scsi_sanitize_overwrite:purge scsi_format:clear overwrite:clear",
    ),
    (UnitKind.SCSI_HDD, ScsiCapabilities(format=True), "scsi_format:clear overwrite:clear"),
    # What can only be written to
    (UnitKind.EMMC, PLAIN, "overwrite:clear"),
    (UnitKind.PMEM, PLAIN, "overwrite:clear"),
    (UnitKind.VIRTIO, PLAIN, "overwrite:clear"),
    (UnitKind.UNKNOWN, PLAIN, "overwrite:clear"),
    # No ATA command through USB, whatever the bridge says of the drive behind it
    (UnitKind.USB_BRIDGE, PLAIN, "overwrite:clear"),
    (UnitKind.USB_BRIDGE, ATA, "overwrite:clear"),
    (UnitKind.USB_BRIDGE, SCSI, "overwrite:clear"),
]


@pytest.mark.parametrize(("kind", "capabilities", "rungs"), TABLE)
def test_the_ladder_of_every_kind_of_unit(kind, capabilities, rungs):
    chosen = choose_methods(kind, capabilities, Policy())
    assert [f"{rung.name}:{rung.grade.value}" for rung in chosen] == rungs.split()


def test_every_method_stands_on_some_ladder():
    climbed = {
        method
        for kind, capabilities, _ in TABLE
        for rung in choose_methods(kind, capabilities, Policy())
        for method in rung.methods
    }
    assert climbed == set(Method)


@pytest.mark.parametrize(("kind", "capabilities", "rungs"), TABLE)
def test_a_required_purge_leaves_no_rung_below_it(kind, capabilities, rungs):
    chosen = choose_methods(kind, capabilities, Policy(required=Grade.PURGE))
    assert [rung.name for rung in chosen] == [
        rung.removesuffix(":purge") for rung in rungs.split() if rung.endswith(":purge")
    ]


def test_without_fallback_only_the_best_rung_is_climbed_and_the_others_are_named():
    ladder = make_ladder(UnitKind.SCSI_HDD, SCSI, Policy(fallback=False))
    assert [rung.name for rung in ladder.rungs] == ["scsi_sanitize_crypto"]
    assert {over.reason for over in ladder.passed_over} == {"params.fallback is false"}
    assert [over.name for over in ladder.passed_over] == [
        "scsi_sanitize_overwrite",
        "scsi_format",
        "overwrite",
    ]


def test_what_is_frozen_or_too_weak_is_said():
    frozen = replace(ATA, security=replace(SECURED, frozen=True), sanitizes=FROZEN)
    ladder = make_ladder(UnitKind.SATA_SSD, frozen, Policy(required=Grade.PURGE))
    assert ladder.rungs == ()
    said = {over.name: over.reason for over in ladder.passed_over}
    assert "sanitize is frozen" in said["ata_sanitize_crypto+ata_sanitize_block"]
    assert "frozen" in said["ata_security_erase_enhanced"]
    assert said["overwrite"] == "only clear"


def test_an_overwrite_on_top_follows_every_rung_and_keeps_its_grade():
    chosen = choose_methods(UnitKind.SCSI_SSD, SCSI, Policy(verification=Verification.OVERWRITE))
    assert [rung.name for rung in chosen] == [
        "scsi_sanitize_crypto+scsi_sanitize_block+overwrite",
        "scsi_format+overwrite",
        "overwrite",
    ]
    assert [rung.grade for rung in chosen] == [Grade.PURGE, Grade.CLEAR, Grade.CLEAR]
    assert {rung.leaves for rung in chosen} == {Leaves.ZEROS}


@pytest.mark.parametrize(
    ("subject", "capabilities", "kind"),
    [
        (nvme_medium("nvme0"), NVME, UnitKind.NVME),
        (nvme_medium("nvme0", transport="nvme-tcp"), NVME, UnitKind.NVME),
        (medium("sda", transport="sata"), ATA, UnitKind.SATA_SSD),
        (medium("sda", transport="sata", rotational=True), ATA, UnitKind.SATA_HDD),
        (medium("sda", transport="sata"), replace(ATA, rotational=True), UnitKind.SATA_HDD),
        (medium("sda", transport="sas", vendor="ATA"), ATA, UnitKind.SATA_SSD),
        (medium("sda", transport="sas"), SCSI, UnitKind.SCSI_SSD),
        (
            medium("sda", transport="scsi", rotational=True),
            replace(SCSI, rotational=False),
            UnitKind.SCSI_SSD,
        ),
        (medium("sda", transport="iscsi", rotational=True), SCSI, UnitKind.SCSI_HDD),
        (medium("sda", transport="usb", vendor="ATA"), ATA, UnitKind.USB_BRIDGE),
        (medium("vda", transport="virtio"), PLAIN, UnitKind.VIRTIO),
        (medium("mmcblk0", transport="mmc"), PLAIN, UnitKind.EMMC),
        (medium("mmcblk0", transport="sd"), PLAIN, UnitKind.UNKNOWN),
        (medium("pmem0", transport="pmem"), PLAIN, UnitKind.PMEM),
        (medium("xx", transport="unknown"), PLAIN, UnitKind.UNKNOWN),
    ],
)
def test_the_kind_of_a_unit(subject, capabilities, kind):
    (unit,) = group_units((subject,))
    assert kind_of(unit, capabilities) is kind


def test_what_a_rung_leaves_is_what_its_last_method_leaves():
    both = Rung(methods=(Method.NVME_SANITIZE_CRYPTO, Method.NVME_SANITIZE_BLOCK))
    assert (both.grade, both.leaves) == (Grade.PURGE, Leaves.CONSTANT)
    assert Rung(methods=(Method.ATA_SANITIZE_CRYPTO,)).leaves is Leaves.CHANGED
    assert Rung(methods=(Method.SCSI_SANITIZE_OVERWRITE,)).leaves is Leaves.ZEROS
