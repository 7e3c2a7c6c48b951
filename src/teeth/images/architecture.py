"""For which processor a program is, by the first bytes of its file."""

from __future__ import annotations

import struct

HEAD = 4096
_ELF = {62: "x86_64", 183: "aarch64", 3: "i386", 40: "arm", 243: "riscv", 21: "ppc64", 22: "s390x"}
_PE = {0x8664: "x86_64", 0xAA64: "aarch64", 0x14C: "i386", 0x5064: "riscv"}


def of_program(head: bytes) -> str | None:
    """By the ELF header; None for a script, or nothing that is known."""
    if len(head) < 20 or head[:4] != b"\x7fELF":
        return None
    order = ">" if head[5] == 2 else "<"
    (machine,) = struct.unpack_from(f"{order}H", head, 18)
    return _ELF.get(machine, f"ELF machine {machine}")


def of_kernel(head: bytes) -> str | None:
    """A Linux kernel's; None when it is packed so that it cannot be told. Raises ValueError for no kernel.

    Linux, Documentation/arch/x86/boot.rst and arm64/booting.rst; PE/COFF for kernels that firmware starts.
    """
    if head[0x202:0x206] == b"HdrS":
        # XLF_KERNEL_64 of xloadflags, since boot protocol 2.12: a kernel without it runs on no 64-bit system.
        (version,) = struct.unpack_from("<H", head, 0x206)
        (flags,) = struct.unpack_from("<H", head, 0x236)
        return "i386" if version >= 0x20C and not flags & 1 else "x86_64"
    if head[56:60] == b"ARM\x64":
        return "aarch64"
    if head[:2] == b"MZ" and len(head) >= 64:
        (pe,) = struct.unpack_from("<I", head, 60)
        if head[pe : pe + 4] == b"PE\0\0" and len(head) >= pe + 6:
            (machine,) = struct.unpack_from("<H", head, pe + 4)
            return _PE.get(machine, f"PE machine {machine:#x}")
    if head[:4] == b"\x7fELF":
        return of_program(head)
    if head[:3] == b"\x1f\x8b\x08":
        return None
    raise ValueError("not a Linux kernel")
