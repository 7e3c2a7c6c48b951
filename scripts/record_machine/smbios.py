"""What the firmware says of processors, memory and boards: SMBIOS structures."""

from __future__ import annotations

from record_machine.found import Recording, bytes_of

# What tells of processors, memory and boards: by SMBIOS 3.6 type, the offsets of strings that name one piece.
NAMING = {0: (), 1: (0x07,), 2: (0x07, 0x08), 3: (0x07, 0x08), 4: (0x20, 0x21), 16: (), 17: (0x18, 0x19)}


def read_dmi(one: Recording) -> None:
    """The structures of the types above: their bytes, their strings, and which strings are serial numbers."""
    data = bytes_of("/sys/firmware/dmi/tables/DMI", 1 << 20)
    if data is None:
        one.lacks("/sys/firmware/dmi/tables/DMI")
        return
    at = 0
    while at + 4 <= len(data) and len(one.dmi) < 1024:
        kind, length = data[at], data[at + 1]
        end = data.find(b"\0\0", at + length)
        if length < 4 or end < 0 or kind == 127:
            break
        body, raw = data[at : at + length], data[at + length : end]
        strings = [part.decode("latin-1") for part in raw.split(b"\0")] if raw else []
        if kind in NAMING:
            names_of = [body[offset] for offset in NAMING[kind] if offset < length and body[offset]]
            one.dmi.append({"type": kind, "bytes": body.hex(), "strings": strings, "serials": names_of})
        at = end + 2
