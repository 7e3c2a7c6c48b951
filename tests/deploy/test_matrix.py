"""Debian lands: every release, kind of image, firmware and way to leave, with its config drive applied."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.site import INJECTED, MIB, SERIAL, WRITTEN, Landed, Plan, Site, Words, empty_disk, site
from teeth.boot.images import ImageFile, load_image
from teeth.build.guest import build_guest, guest_folder
from teeth.build.guest_forms import FORMS, build_form, form_folder
from teeth.build.guest_root import ROOT, build_root, root_folder
from teeth.demo import proof
from teeth.lab.accel import Accelerator
from teeth.lab.disk import Bus
from teeth.lab.firmware import Firmware
from teeth.paths import Paths

pytestmark = [pytest.mark.boot, pytest.mark.image, pytest.mark.machines(1024)]

DISK = 1280 * MIB
RELEASES, KINDS, BOOTS = ("bookworm", "trixie"), ("disk", "root"), ("kexec", "reboot")
# The first release's disk comes in every form that users have; by numbers of release, firmware and boot.
_DISK_FORMS = {(0, 0, 0): "qcow2", (0, 1, 1): "gzip", (0, 0, 1): "xz"}
FULL = bool(os.environ.get("FULL"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One deployment. ``bus``: what the root disk hangs on; ``layout``, ``filesystem``: the config drive's;
    ``grow``: what a whole disk's root is grown to; ``form``: what the image is fetched as."""

    release: str
    kind: str
    firmware: Firmware
    boot: str
    bus: Bus
    layout: str
    filesystem: str
    grow: str
    form: str

    def __str__(self) -> str:
        return f"{self.release}-{self.kind}-{self.firmware.value}-{self.boot}"


def cases(*, full: bool) -> list[Case]:
    """All of them, or the half in which every three values of different factors still meet: the cases whose
    factors have an even number of second values (the fractional factorial design 2^(4-1), of resolution IV).

    What else varies is spread over the cases so that, in the half too, each value meets each of the four.
    """
    factors = (RELEASES, KINDS, tuple(Firmware), BOOTS)
    found = []
    for a, b, c, d in itertools.product((0, 1), repeat=4):
        if full or (a + b + c + d) % 2 == 0:
            release, kind, firmware, boot = (
                values[n] for values, n in zip(factors, (a, b, c, d), strict=True)
            )
            found.append(
                Case(
                    release=str(release),
                    kind=str(kind),
                    firmware=Firmware(firmware),
                    boot=str(boot),
                    bus=(Bus.NVME, Bus.VIRTIO_SCSI)[a ^ c],
                    layout=("openstack", "nocloud")[a ^ b],
                    filesystem=("vfat", "iso9660")[b ^ c],
                    grow=("filesystem", "none")[c] if kind == "disk" else "none",
                    form=_DISK_FORMS.get((a, c, d), "zstd") if kind == "disk" else "zstd",
                )
            )
    return found


def image_of(paths: Paths, case: Case) -> ImageFile:
    if case.kind == "root":
        build_root(paths, release=case.release)
        return load_image(root_folder(paths, case.release), name=ROOT)
    build_guest(paths, release=case.release)
    if case.form in FORMS:
        build_form(paths, case.release, case.form)
        return load_image(form_folder(paths, case.release, case.form), name=FORMS[case.form][0])
    return load_image(guest_folder(paths, case.release))


@pytest.mark.parametrize("case", cases(full=FULL), ids=str)
async def test_it_lands(
    case: Case, kept: Path, ramdisk: Path, accelerator: Accelerator, paths: Paths
) -> None:
    image = image_of(paths, case)
    target = empty_disk(kept / "target.raw", DISK, case.bus)
    plan = Plan(
        folder=kept,
        ramdisk=ramdisk,
        accelerator=accelerator,
        images=[image],
        disks=(target,),
        firmware=case.firmware,
        # A machine that only ever leaves by kexec needs no network boot; one that starts again does.
        network=case.boot == "reboot",
    )
    words = Words()
    async with site(plan) as here:
        prepared = await here.prepare(here.endpoint.image(image.id), SERIAL, grow=case.grow)
        assert (prepared.state, prepared.code) == ("complete", ""), prepared.msg
        assert prepared.result is not None
        assert prepared.result["verified"] is True
        assert prepared.result["grown"] == case.grow, prepared.result["grow_reason"]
        landed = await here.run_image(
            image.id, case.boot, words.config_drive(layout=case.layout, filesystem=case.filesystem)
        )
        assert_it_left(case, here)
        assert_it_is(case, landed, words, here)
    assert_no_secret(kept, words)


def assert_it_left(case: Case, here: Site) -> None:
    """By kexec or by the firmware, as it was asked: what the host itself saw."""
    resets = here.machine.qmp.resets()
    if case.boot == "kexec":
        proofs = proof.kexec_proofs(here.machine.console.lines, resets=resets)
        assert all(proofs.values()), proofs
    else:
        assert resets >= 1  # the firmware may reset once more while it starts
        assert here.firmware_ran_again()


def assert_it_is(case: Case, landed: Landed, words: Words, here: Site) -> None:
    """The system that was written, in a boot of its own, with everything that its config drive says."""
    assert landed.release() == case.release
    assert landed.host_name == words.host_name
    assert landed.files[WRITTEN] == words.written
    assert landed.files[INJECTED] == (words.injected if case.layout == "openstack" else None)
    assert landed.boot_id
    assert landed.boot_id != here.node.boot_id
    assert "root=" in landed.command_line
    assert "teeth." not in landed.command_line
    assert landed.facts()["firmware"] == case.firmware.value
    assert_its_root_has_the_disk(case, landed)
    print(f"{case}: {landed.seconds['user_space']:.1f} s from run_image to user space")


def assert_its_root_has_the_disk(case: Case, landed: Landed) -> None:
    """Root image or grown disk: what the disk has behind the other partitions, but for a config drive."""
    root, part = (int(landed.facts()[name]) for name in ("root_bytes", "part_bytes"))
    assert root <= part
    if case.kind == "root" or case.grow == "filesystem":
        assert DISK - part < 480 * MIB, landed.facts()
        assert part - root < part // 8, landed.facts()
    else:
        assert part < 600 * MIB, landed.facts()


def assert_no_secret(folder: Path, words: Words) -> None:
    """The wire's transcript and the endpoint's log know that a config drive went out, not what was in it."""
    wire = [json.loads(line) for line in (folder / "wire.jsonl").read_text().splitlines()]
    assert any("standbye.run_image" in json.dumps(line) for line in wire)
    sent = "\n".join(json.dumps(line) for line in wire if "run_image" in json.dumps(line))
    assert words.injected not in sent
    assert words.written not in sent
