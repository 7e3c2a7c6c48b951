"""The smallest system that proves a kernel can run programs: an initramfs with one hand-made program.

It writes MARKER to the console and restarts the machine. Its being reached means that the kernel came
through long mode, paging, interrupts and timers, and that user mode and system calls work: firmware and
boot sectors run on hosts whose KVM hangs every kernel, so less would prove nothing.
"""

from __future__ import annotations

import struct

from teeth.lab.cpio import archive

MARKER = "teeth-probe: user mode reached"

_BASE = 0x400000
_ELF_HEADER, _PROGRAM_HEADER = 64, 56
_START = _ELF_HEADER + _PROGRAM_HEADER


def probe_initramfs() -> bytes:
    """A gzip'ed newc archive holding only ``/init`` (every kernel configuration can unpack gzip)."""
    return archive([("init", 0o100755, init_program())])


def init_program() -> bytes:
    """A static x86-64 ELF program: write(1, MARKER), then reboot(RESTART).

    The kernel's own first archive holds /dev/console, which it opens as the program's standard output.
    Restart, not power-off: it needs no ACPI, and QEMU's -no-reboot turns it into an end.
    """
    text = f"\n{MARKER}\n".encode()
    # System call numbers and the magic of reboot(2): linux/unistd.h, linux/reboot.h.
    code = _syscall(1, 1, _BASE + 0x1000, len(text)) + _syscall(169, 0xFEE1DEAD, 672274793, 0x01234567)
    code += b"\xeb\xfe"  # jmp to itself: init must never return
    body = code.ljust(0x1000 - _START, b"\0") + text
    size = _START + len(body)
    elf = struct.pack(
        "<4sBBBB8xHHIQQQIHHHHHH",
        b"\x7fELF", 2, 1, 1, 0,  # 64 bits, little endian, version 1, System V
        2, 62, 1, _BASE + _START,  # executable, x86-64, version, entry point
        _ELF_HEADER, 0, 0, _ELF_HEADER, _PROGRAM_HEADER, 1, 0, 0, 0,
    )  # fmt: skip
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)  # PT_LOAD, read and execute
    return elf + load + body


def _syscall(number: int, first: int, second: int, third: int) -> bytes:
    # mov eax, edi, esi, edx; syscall. 32-bit moves clear the upper halves.
    moves = ((b"\xb8", number), (b"\xbf", first), (b"\xbe", second), (b"\xba", third))
    return b"".join(opcode + struct.pack("<I", value) for opcode, value in moves) + b"\x0f\x05"
