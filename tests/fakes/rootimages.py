"""Small root images: the files of a system that starts nothing, as a tar; and the ramdisk's boot loader."""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

from fakes import diskimages

# What elements/teeth-root-images puts in: kept in step by tests/image.
MODULES = (
    *(
        "part_gpt",
        "ext2",
        "search",
        "search_fs_uuid",
        "search_label",
        "normal",
        "configfile",
        "linux",
        "echo",
    ),
    *("test", "serial", "terminal", "gzio", "all_video", "minicmd", "halt", "reboot", "ls", "cat", "loadenv"),
    *("sleep", "true", "regexp"),
)


def elf(machine: int = 62) -> bytes:
    """The header of a program and nothing that could start."""
    head = bytearray(b"\x7fELF\x02\x01\x01".ljust(64, b"\0"))
    struct.pack_into("<H", head, 18, machine)
    return bytes(head)


def system_files() -> dict[str, bytes]:
    return {
        "boot/vmlinuz-6.1.0-9": diskimages.kernel(),
        "boot/vmlinuz-6.1.0-10": diskimages.kernel(),
        "boot/initrd.img-6.1.0-10": b"initrd" * 1000,
        "boot/initrd.img-6.1.0-9": b"old",
        "usr/lib/systemd/systemd": elf(),
        "etc/os-release": b'PRETTY_NAME="Small System 1"\n',
        "etc/fstab": b"UUID=0000 / ext4 defaults 0 1\ntmpfs /tmp tmpfs defaults 0 0\n",
        "etc/default/grub": b'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="net.ifnames=0"\n',
        "var/big": bytes(range(256)) * 8192,
    }


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type = kind
    found.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(found, key, value)
    return found


def system_members(files: dict[str, bytes] | None = None) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    yield member("./", tarfile.DIRTYPE), b""
    yield member("./sbin", tarfile.SYMTYPE, linkname="usr/sbin"), b""
    yield member("./usr/sbin", tarfile.DIRTYPE), b""
    yield member("./boot/efi", tarfile.DIRTYPE, mode=0o700), b""
    for name, content in (system_files() if files is None else files).items():
        yield member(f"./{name}"), content
    yield member("./usr/sbin/init", tarfile.SYMTYPE, linkname="/usr/lib/systemd/systemd"), b""
    yield member("./usr/bin/su", mode=0o4755, uid=0, gid=42), b"setuid"
    yield member("./usr/bin/su2", tarfile.LNKTYPE, linkname="./usr/bin/su"), b""
    yield member("./dev/null", tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=3), b""
    yield member("./run/fifo", tarfile.FIFOTYPE), b""
    ping = member("./usr/bin/ping", uid=1000, gid=1000)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    ping.pax_headers = {"SCHILY.xattr.security.capability": capability.decode("utf-8", "surrogateescape")}
    yield ping, b"ping"
    # As systemd's own: an ACL, in the form that tar --xattrs --xattrs-include=* gives it.
    journal = member("./var/log/journal", tarfile.DIRTYPE, mode=0o2755, gid=999)
    acl = bytes.fromhex(
        "0200000001000700ffffffff04000500ffffffff080005000400000010000500ffffffff20000500ffffffff"
    )
    text = acl.decode("utf-8", "surrogateescape")
    journal.pax_headers = {f"SCHILY.xattr.system.posix_acl_{kind}": text for kind in ("access", "default")}
    yield journal, b""


def archive(members: Iterator[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for one, content in members:
            one.size = len(content)
            tar.addfile(one, io.BytesIO(content))
    return target.getvalue()


def loader(folder: Path) -> Path:
    """As the ramdisk's folder of boot programs, made by this host's GRUB."""
    folder.mkdir()
    for platform, own, name in (("i386-pc", "biosdisk", "core.img"), ("x86_64-efi", "fat", "grubx64.efi")):
        diskimages.run(
            *(
                "grub-mkimage",
                "-O",
                platform,
                "-p",
                "(,gpt3)/boot/grub",
                "-o",
                f"{folder / name}",
                own,
                *MODULES,
            )
        )
    (folder / "boot.img").write_bytes(Path("/usr/lib/grub/i386-pc/boot.img").read_bytes())
    return folder


class BytesSource:
    """A Source of bytes in memory."""

    def __init__(self, content: bytes, *, step: int = 100_000, digest: str | None = None) -> None:
        self.content = content
        self.size = len(content)
        self.digest = digest or f"sha256:{hashlib.sha256(content).hexdigest()}"
        self.manifest = None
        self.kind = "network"
        self.random_access = False
        self.proven = self.stopped = False
        self.received = self.restarts = self.peer_bytes = self.fetched_bytes = 0
        self._step = step

    def __iter__(self) -> Iterator[memoryview]:
        from teeth_agent.errors import AgentError

        for offset in range(0, self.size, self._step):
            yield memoryview(self.content)[offset : offset + self._step]
        if self.digest != f"sha256:{hashlib.sha256(self.content).hexdigest()}":
            raise AgentError("the image has another digest", code="digest_mismatch")
        self.proven = True

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]

    def stop(self) -> None:
        self.stopped = True
