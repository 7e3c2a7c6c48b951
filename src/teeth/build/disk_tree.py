"""The tree that goes onto a disk: read from its archive, unpacked, told which disk it will be on."""

from __future__ import annotations

import math
import tarfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from teeth.build.dib import as_root, remove_tree
from teeth.build.disk import BLOCK, Content
from teeth.build.disk_grub import grub_config
from teeth.build.packages import read_packages
from teeth.errors import TeethError
from teeth.proc import run

_STATUS = "var/lib/dpkg/status"
_KERNEL = "boot/vmlinuz-"
_INITRD = "boot/initrd.img-"
_INLINE_LINK = 60  # a longer target of a symbolic link takes a block of its own (ext4)


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeFacts:
    """What the archive of a Debian tree says. ``packages``: version by name."""

    content: Content
    kernel_version: str
    packages: Mapping[str, str]


def read_tree(archive: Path) -> TreeFacts:
    """Measure a tree without unpacking it.

    Raises TeethError when the archive cannot be read, or holds not exactly one kernel with its initramfs.
    """
    blocks = inodes = 0
    names: list[str] = []
    status = ""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                blocks += _blocks(member)
                inodes += not member.islnk()
                name = member.name.removeprefix("./")
                names.append(name)
                if name == _STATUS and (stream := tar.extractfile(member)):
                    status = stream.read().decode(errors="replace")
    except (OSError, tarfile.TarError) as error:
        raise TeethError(f"the tree's archive {archive} cannot be read: {error}") from error
    return TreeFacts(
        content=Content(blocks=blocks, inodes=inodes),
        kernel_version=_kernel_version(names),
        packages={name: package.version for name, package in sorted(read_packages(status).items())},
    )


def _blocks(member: tarfile.TarInfo) -> int:
    if member.isreg():
        return math.ceil(member.size / BLOCK)
    return 1 if member.isdir() or (member.issym() and len(member.linkname) >= _INLINE_LINK) else 0


def _kernel_version(names: list[str]) -> str:
    kernels = {name.removeprefix(_KERNEL) for name in names if name.startswith(_KERNEL)}
    initrds = {name.removeprefix(_INITRD) for name in names if name.startswith(_INITRD)}
    if len(kernels) != 1 or kernels != initrds:
        raise TeethError(
            "the tree must hold one kernel and its initramfs; "
            f"kernels: {_listed(kernels)}; initramfs: {_listed(initrds)}"
        )
    return kernels.pop()


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"


def unpack_tree(archive: Path, tree: Path) -> None:
    """Unpack as root, with owners and attributes, into the new folder ``tree``."""
    remove_tree(tree)
    tree.mkdir(parents=True)
    attributes = ("--xattrs", "--xattrs-include=*")
    run([*as_root(), "tar", "-C", tree, "-xpf", archive, "--numeric-owner", *attributes])


def settle_tree(tree: Path, *, facts: TreeFacts, root_uuid: uuid.UUID, arguments: str, scratch: Path) -> None:
    """Give the tree what depends on its disk: mount points, fstab and grub.cfg.

    ``arguments`` are the kernel's, beside the root file system.
    """
    version = facts.kernel_version
    files = {
        "etc/fstab": f"UUID={root_uuid} / ext4 errors=remount-ro 0 1\n",
        "boot/grub/grub.cfg": grub_config(
            root_uuid=root_uuid,
            kernel=f"/{_KERNEL}{version}",
            initrd=f"/{_INITRD}{version}",
            arguments=arguments,
            title="Debian GNU/Linux",
        ),
    }
    scratch.mkdir(parents=True, exist_ok=True)
    # diskimage-builder's archive leaves the two out, because the build's own were mounted there.
    run([*as_root(), "install", "-d", "-m", "0555", "-o", "0", "-g", "0", tree / "proc", tree / "sys"])
    for name, text in files.items():
        source = scratch / Path(name).name
        source.write_text(text)
        run([*as_root(), "install", "-D", "-m", "0644", "-o", "0", "-g", "0", source, tree / name])
