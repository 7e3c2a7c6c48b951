"""What the files of a system need to start from a disk of their own: as text, nothing here touches a disk."""

from __future__ import annotations

import re
import shlex
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from teeth_image.bootentry import version_key

_KERNEL = re.compile(r"(?:vmlinuz|vmlinux|kernel|linux)-(?P<version>.+)")
_NOT_A_KERNEL = re.compile(r"rescue|\.(?:old|bak|sig|efi\.signed|hmac|dpkg-\w+)$", re.IGNORECASE)
# grub-mkconfig's own list of what the processor wants before everything else, and what follows.
_EARLY = (
    "intel-uc.img",
    "intel-ucode.img",
    "amd-uc.img",
    "amd-ucode.img",
    "early_ucode.cpio",
    "microcode.cpio",
)
_INITRDS = ("initrd.img-{}", "initramfs-{}.img", "initrd-{}", "initramfs-genkernel-{}", "initrd-{}.img")
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?(\w+)=(.*)$")
# What a file system of ours or a kernel's own can stand in for.
_FROM_NOWHERE = re.compile(r"^(?:UUID=|LABEL=|PARTUUID=|PARTLABEL=|/dev/)")
_CONSOLE = re.compile(r"console=ttyS(?P<unit>[0-3])(?:,(?P<speed>[0-9]+))?")

# e_machine of ELF (System V ABI) by the kernel's name of the machine.
_ELF_MACHINES = {
    3: "i386",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    21: "ppc64le",
    22: "s390x",
    243: "riscv64",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A kernel and all of its initrds, in the order they are unpacked; names in /boot."""

    version: str
    kernel: str
    initrds: tuple[str, ...]


def choose_kernel(names: Iterable[str]) -> Choice | None:
    """The newest kernel among the names in /boot, with what goes before it and its own initrd."""
    present = set(names)
    found = [
        (match["version"], name)
        for name in present
        if (match := _KERNEL.fullmatch(name)) and not _NOT_A_KERNEL.search(name)
    ]
    if found:
        version, kernel = max(found, key=lambda one: (version_key(one[0]), one))
    elif "vmlinuz" in present:
        version, kernel = "", "vmlinuz"
    else:
        return None
    own = (
        [name.format(version) for name in _INITRDS] if version else ["initrd.img", "initrd", "initramfs.img"]
    )
    initrd = [name for name in own if name in present][:1]
    return Choice(
        version=version,
        kernel=kernel,
        initrds=(*(name for name in _EARLY if name in present and initrd), *initrd),
    )


def kernel_machine(head: bytes) -> str | None:
    """For which machine a kernel is, by its first KiB; None if it is nothing that is known.

    Documentation/arch/x86/boot.rst and Documentation/arch/arm64/booting.rst.
    """
    if len(head) >= 0x206 and head[0x1FE:0x200] == b"\x55\xaa" and head[0x202:0x206] == b"HdrS":
        return "x86_64"
    if head[56:60] == b"ARM\x64":
        return "aarch64"
    return elf_machine(head)


def elf_machine(head: bytes) -> str | None:
    """For which machine a program is, by its first 20 bytes; None if it is no ELF file."""
    if head[:4] != b"\x7fELF" or len(head) < 20:
        return None
    order = ">" if head[5] == 2 else "<"
    (machine,) = struct.unpack_from(f"{order}H", head, 18)
    return _ELF_MACHINES.get(machine, f"ELF machine {machine}")


def variables(texts: Iterable[str]) -> dict[str, str]:
    """What /etc/default/grub and the files of its folder set, in their order; no shell is run.

    Only plain assignments count, with references to what was set before.
    """
    found: dict[str, str] = {}
    for text in texts:
        for line in text.splitlines():
            match = _ASSIGNMENT.match(line)
            if match is None:
                continue
            raw = re.sub(r"\$\{?(\w+)\}?", lambda name: found.get(name[1], ""), match[2])
            try:
                words = shlex.split(raw, comments=True)
            except ValueError:
                continue
            if "`" not in raw and "$(" not in match[2]:
                found[match[1]] = words[0] if words else ""
    return found


def kernel_arguments(defaults: Mapping[str, str], command_line: str) -> str:
    """The image's own arguments; its consoles are this ramdisk's (``command_line``) if it names none."""
    said = " ".join(
        defaults.get(name, "") for name in ("GRUB_CMDLINE_LINUX", "GRUB_CMDLINE_LINUX_DEFAULT")
    ).split()
    words = [word for word in said if not word.startswith("root=")]
    if not any(word.startswith("console=") for word in words):
        words += [word for word in command_line.split() if word.startswith("console=")]
    return " ".join(words)


def grub_cfg(
    *, title: str, root: str, root_uuid: str, kernel: str, initrds: Sequence[str], arguments: str
) -> str:
    """One entry; ``kernel`` and ``initrds`` are paths in the root file system, ``root`` as of root=."""
    lines = [
        "# Written when this disk was made; update-grub may replace it.",
        *_serial(arguments),
        "set default=0",
        "set timeout=2",
        f"menuentry {_quoted(title)} --class gnu-linux $menuentry_id_option 'teeth' {{",
        f"\tsearch --no-floppy --fs-uuid --set=root {root_uuid}",
        f"\tlinux {kernel} root={root} ro {arguments}".rstrip(),
        *([f"\tinitrd {' '.join(initrds)}"] if initrds else []),
        "}",
    ]
    return "\n".join(lines) + "\n"


def fstab(text: str | None, *, root: str, kind: str, others: Mapping[str, str]) -> str | None:
    """The text for /etc/fstab, None if what is there is right.

    ``root``: "UUID=..." of the root file system of type ``kind``; ``others``: source by mount point for the
    other file systems of this disk. What comes from a disk and is neither is commented out: a system that
    waits for it does not start.
    """
    said = [] if text is None else text.splitlines()
    kept, changed, has_root = [], text is None, False
    for line in said:
        words = line.split("#", 1)[0].split()
        point = words[1] if len(words) > 1 else ""
        if len(words) < 2 or not _FROM_NOWHERE.match(words[0]):
            kept.append(line)
        elif point == "/" and not has_root:
            has_root = True
            right = words[0].lower() == root.lower()
            changed |= not right
            kept.append(line if right else _fstab_root(root, kind))
        elif point in others and words[0].lower() == others[point].lower():
            kept.append(line)
        else:
            changed = True
            kept.append(f"# not on this disk: {line.strip()}")
    if not has_root:
        changed = True
        kept.append(_fstab_root(root, kind))
    present = {line.split()[1] for line in kept if len(line.split()) > 1 and not line.startswith("#")}
    for point, source in others.items():
        if point not in present:
            changed = True
            kept.append(f"{source}\t{point}\tvfat\tumask=0077,nofail\t0\t1")
    return "\n".join(kept) + "\n" if changed else None


def _fstab_root(root: str, kind: str) -> str:
    return f"{root}\t/\t{kind}\terrors=remount-ro\t0\t1"


def _serial(arguments: str) -> list[str]:
    """GRUB on the line where the kernel's console is."""
    found = _CONSOLE.search(arguments)
    if found is None:
        return []
    speed = found["speed"] or "9600"
    return [
        f"serial --unit={found['unit']} --speed={speed}",
        "terminal_input console serial",
        "terminal_output console serial",
    ]


def _quoted(text: str) -> str:
    return "'" + re.sub(r"[^\x20-\x7e]|'", "", text)[:100] + "'"
