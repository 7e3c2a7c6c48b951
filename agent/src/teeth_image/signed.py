"""Whether a kernel carries a signature: PE/COFF, the certificate table of the optional header."""

from __future__ import annotations

import struct

_PE_AT = 0x3C
_OPTIONAL = 24  # from the PE signature to the optional header
_PE32_PLUS = 0x20B
_DIRECTORIES = {0x10B: 96, _PE32_PLUS: 112}  # where the data directories begin, by the header's magic
_CERTIFICATES = 4


def is_signed(head: bytes) -> bool:
    """By the first KiB of a bzImage with an EFI stub. Says nothing about whose signature it is."""
    if head[:2] != b"MZ" or len(head) < _PE_AT + 4:
        return False
    (at,) = struct.unpack_from("<I", head, _PE_AT)
    optional = at + _OPTIONAL
    if head[at : at + 4] != b"PE\0\0" or len(head) < optional + 2:
        return False
    (magic,) = struct.unpack_from("<H", head, optional)
    entry = optional + _DIRECTORIES.get(magic, 0) + 8 * _CERTIFICATES
    if magic not in _DIRECTORIES or len(head) < entry + 8:
        return False
    _, size = struct.unpack_from("<II", head, entry)
    return bool(size)
