"""Small whole-disk images with a system in them, made by the real tools without mounting."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

MIB = 1 << 20
ROOT_START, ROOT_SIZE = 6 * MIB, 12 * MIB
ESP_START, ESP_SIZE = 2 * MIB, 4 * MIB


def run(*argv: str, input: bytes | None = None) -> bytes:
    return subprocess.run(argv, input=input, capture_output=True, check=True).stdout


def kernel(*, flags: int = 1, magic: bytes = b"HdrS") -> bytes:
    """The header of a bzImage and nothing that could start."""
    image = bytearray(b"\xcc" * 8192)
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = magic
    struct.pack_into("<H", image, 0x206, 0x020F)
    struct.pack_into("<H", image, 0x236, flags)
    return bytes(image)


GRUB_CFG = """\
set default="0"
menuentry 'Small System' --class os $menuentry_id_option 'small' {
\tsearch --no-floppy --fs-uuid --set=root 1234
\tlinux\t/boot/vmlinuz-6.1 root=UUID=1234 ro console=ttyS0,115200 quiet
\tinitrd\t/boot/early.img /boot/initrd.img-6.1
}
"""


def system_files() -> dict[str, bytes]:
    return {
        "boot/vmlinuz-6.1": kernel(),
        "boot/early.img": b"early",
        "boot/initrd.img-6.1": b"main initrd",
        "boot/grub/grub.cfg": GRUB_CFG.encode(),
        "etc/hostname": b"small\n",
    }


def tree(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def make(path: Path, work: Path, *, files: Mapping[str, bytes] | None = None, size: int = 24 * MIB) -> Path:
    """A GPT disk: BIOS boot partition, ESP with the removable path, ext4 root. Boot code that is not code."""
    source = tree(work / f"{path.name}-tree", system_files() if files is None else files)
    with path.open("wb") as image:
        image.truncate(size)
    partitions = {1: ("1M", "2M", "ef02"), 2: ("2M", "6M", "ef00"), 3: ("6M", "18M", "8300")}
    for number, (first, end, kind) in partitions.items():
        last = int(end[:-1]) * 2048 - 1
        run("sgdisk", f"--new={number}:{first}:{last}", f"--typecode={number}:{kind}", str(path))
    run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-d",
        str(source),
        "-E",
        f"offset={ROOT_START}",
        str(path),
        f"{ROOT_SIZE >> 10}k",
    )
    esp = work / f"{path.name}-esp"
    with esp.open("wb") as image:
        image.truncate(ESP_SIZE)
    run("mkfs.vfat", str(esp))
    run("mmd", "-i", str(esp), "::EFI", "::EFI/BOOT")
    run("mcopy", "-i", str(esp), "-", "::EFI/BOOT/BOOTX64.EFI", input=b"MZ not really")
    with path.open("r+b") as image:
        image.write(b"\xeb\x63" + b"boot code" * 20)
        image.seek(ESP_START)
        image.write(esp.read_bytes())
    return path


def blank(path: Path, size: int, fill: bytes = b"\xa5") -> Path:
    """A used disk: full of a pattern, so that what was not written shows."""
    block = fill * MIB
    with path.open("wb") as disk:
        for start in range(0, size, MIB):
            disk.write(block[: min(MIB, size - start)])
    return path


def can_loop() -> bool:
    return os.geteuid() == 0 and subprocess.run(["losetup", "--find"], capture_output=True).returncode == 0


@contextmanager
def loop_device(path: Path, *, sector: int = 512) -> Iterator[str]:
    name = run("losetup", "--find", "--show", "--sector-size", str(sector), str(path)).decode().strip()
    try:
        yield name
    finally:
        run("losetup", "--detach", name)
