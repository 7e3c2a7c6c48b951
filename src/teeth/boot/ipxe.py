"""iPXE scripts: pure text, and the refusal of every value that could become more than a value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from teeth.errors import UsageError

# iPXE expands ${...}, splits at blanks, and reads || and && as its own; the kernel splits at blanks and
# takes quotes. Values are therefore held to alphabets in which none of that can be written.
_ADDRESS = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22,128}")
_ARGUMENT = re.compile(r"[A-Za-z0-9_.-]{1,64}(?:=[A-Za-z0-9_.,:/@+-]{0,256})?")
_URL = re.compile(r"http://(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}")
_MAC = re.compile(r"[0-9a-f]{2}(?:[:-][0-9a-f]{2}){5}")
# Arguments that are the boot contract's own: a second one would contradict it.
_OWN = ("teeth.endpoint", "teeth.ca", "teeth.token", "teeth.image_key", "BOOTIF", "initrd")

# What a machine without an open grant gets: leave iPXE, so that the firmware goes on to the local disk.
LOCAL_DISK = "#!ipxe\necho teeth: no boot grant for this machine, starting from its own disk\nexit\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class BootTarget:
    """What the ramdisk is told on its kernel command line.

    ``base_url``   where the boot door answers, as the machine sees it: ``http://HOST:PORT``.
    ``endpoints``  ``HOST:PORT`` of the agent listener, in the order to be tried.
    ``ca_digest``  ``sha256:`` and the hex digest of the endpoint CA's DER.
    ``arguments``  further kernel arguments, each ``name`` or ``name=value``.
    ``image_key``  digest of the key that must have signed an image's manifest, None: any image will do.
    """

    base_url: str
    endpoints: tuple[str, ...]
    ca_digest: str
    arguments: tuple[str, ...] = ("console=ttyS0",)
    image_key: str | None = None


def normal_mac(text: str) -> str:
    """A MAC address as ``aa:bb:cc:dd:ee:ff``. Raises UsageError for anything else."""
    lowered = text.strip().lower()
    if not _MAC.fullmatch(lowered):
        raise UsageError("not a MAC address, expected aa:bb:cc:dd:ee:ff")
    return lowered.replace("-", ":")


def command_line(target: BootTarget, *, token: str, mac: str | None) -> str:
    """The kernel arguments of one boot. ``mac`` None leaves BOOTIF to iPXE's own knowledge.

    Raises UsageError naming the value that may not stand on a kernel command line.
    """
    if not target.endpoints:
        raise UsageError("no endpoint address to boot against")
    for address in target.endpoints:
        _require(_ADDRESS, address, "endpoint address")
    _require(_DIGEST, target.ca_digest, "CA digest")
    _require(_TOKEN, token, "join token", secret=True)
    _check_arguments(target.arguments)
    if target.image_key is not None:
        _require(_DIGEST, target.image_key, "image key's digest")
    # netX is the interface iPXE booted from, whichever number it has.
    interface = "${netX/mac:hexhyp}" if mac is None else normal_mac(mac).replace(":", "-")
    return " ".join(
        (
            "initrd=initramfs",
            *target.arguments,
            f"teeth.endpoint={','.join(target.endpoints)}",
            f"teeth.ca={target.ca_digest}",
            *(() if target.image_key is None else (f"teeth.image_key={target.image_key}",)),
            f"teeth.token={token}",
            f"BOOTIF=01-{interface}",
        )
    )


def boot_script(target: BootTarget, *, token: str, mac: str | None) -> str:
    """The script that starts the ramdisk once. Raises UsageError as command_line does."""
    _require(_URL, target.base_url, "boot address")
    arguments = command_line(target, token=token, mac=mac)
    files = f"{target.base_url}/boot/files"
    return (
        "#!ipxe\n"
        "echo teeth: starting the ramdisk\n"
        f"kernel {files}/vmlinuz {arguments} || goto failed\n"
        f"initrd --name initramfs {files}/initramfs || goto failed\n"
        "boot || goto failed\n"
        ":failed\n"
        "echo teeth: the ramdisk could not be started\n"
        "exit 1\n"
    )


def first_hop(base_url: str) -> str:
    """The script a machine finds by TFTP: get an address, then ask the boot door who we are to it."""
    _require(_URL, base_url, "boot address")
    query = "mac=${netX/mac}&uuid=${uuid}"
    return (
        "#!ipxe\n"
        "dhcp || goto failed\n"
        f"chain --replace {base_url}/boot/ipxe?{query} || goto failed\n"
        ":failed\n"
        "echo teeth: no boot server answered, starting from the local disk\n"
        "exit\n"
    )


def write_first_hop(folder: Path, base_url: str, *, name: str = "boot.ipxe") -> Path:
    """Write first_hop into a TFTP folder (made if missing) and return the file's path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(first_hop(base_url), encoding="ascii")
    return path


def _check_arguments(arguments: Sequence[str]) -> None:
    for argument in arguments:
        _require(_ARGUMENT, argument, "kernel argument")
        if argument.partition("=")[0] in _OWN:
            raise UsageError(f"the kernel argument {argument.partition('=')[0]} is set by the boot grant")


def _require(pattern: re.Pattern[str], value: str, what: str, *, secret: bool = False) -> None:
    if not pattern.fullmatch(value):
        shown = "" if secret else f" {value[:80]!r}"
        raise UsageError(f"the {what}{shown} may not stand in a boot script")
