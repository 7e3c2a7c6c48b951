"""A way into a machine for a person: throwaway keys, and ssh's own configuration for it."""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from teeth.lab.cpio import FILE, FOLDER, archive

KEY, KNOWN_HOSTS, CONFIG, LAYER = "id_ed25519", "known_hosts", "ssh_config", "ssh.cpio.gz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How ssh comes to a machine: to ``host``:``port`` directly, or by the command line ``proxy``."""

    user: str
    host: str
    port: int
    proxy: str = ""


def make_keys(folder: Path) -> None:
    """A key to enter with and the host's own key, both for one machine.

    Writes the private key, known_hosts, and the layer that gives a debug ramdisk the other halves.
    """
    ours, theirs = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    _secret(folder / KEY, ours.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    (folder / KNOWN_HOSTS).write_bytes(b"* " + _public(theirs) + b"\n")
    _secret(folder / LAYER, layer(_public(ours), theirs))


def layer(authorized: bytes, host: Ed25519PrivateKey) -> bytes:
    """An initramfs layer with the key that may enter, and the host key in dropbear's format."""
    return archive(
        [
            ("root", FOLDER | 0o700, b""),
            ("root/.ssh", FOLDER | 0o700, b""),
            ("root/.ssh/authorized_keys", FILE | 0o600, authorized + b"\n"),
            ("etc", FOLDER | 0o755, b""),
            ("etc/dropbear", FOLDER | 0o700, b""),
            ("etc/dropbear/dropbear_ed25519_host_key", FILE | 0o600, _dropbear(host)),
        ]
    )


def with_layer(initramfs: Path, folder: Path) -> Path:
    """``initramfs`` with the layer of make_keys behind it, as a file in ``folder``."""
    made = folder / "initramfs"
    content = initramfs.read_bytes()
    padding = bytes(-len(content) % 4)  # an archive begins at a multiple of four
    made.write_bytes(content + padding + (folder / LAYER).read_bytes())
    made.chmod(0o600)
    return made


def write_config(folder: Path, name: str, way: Way, key: Path | None) -> Path:
    """ssh's configuration: ``ssh -F FILE NAME`` enters. ``key`` None: the one that make_keys made."""
    made = key is None
    lines = [
        f"Host {name}",
        f"  HostName {way.host}",
        f"  Port {way.port}",
        f"  User {way.user}",
        f"  IdentityFile {_quoted(key or folder / KEY)}",
        "  IdentitiesOnly yes",
        "  BatchMode yes",
        "  ConnectTimeout 20",
        "  LogLevel ERROR",
        # A machine whose key we do not know is one that we started: there is nobody between.
        f"  UserKnownHostsFile {_quoted(folder / KNOWN_HOSTS) if made else '/dev/null'}",
        f"  StrictHostKeyChecking {'yes' if made else 'no'}",
        *([f"  ProxyCommand {way.proxy}"] if way.proxy else []),
    ]
    path = folder / CONFIG
    path.write_text("\n".join(lines) + "\n")
    return path


def dial_command(namespace: str, leases: Path, mac: str) -> str:
    """A ProxyCommand that finds the machine's present address by its lease."""
    words = [sys.executable, "-m", "teeth.lab.keep.dial", namespace, str(leases), mac, "22"]
    return shlex.join(words).replace("%", "%%")


def _quoted(path: Path) -> str:
    return f'"{str(path).replace("%", "%%")}"'


def _public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def _dropbear(key: Ed25519PrivateKey) -> bytes:
    """dropbear's ed25519.c: the kind, then 64 bytes: the seed and the public key, each behind its length."""
    seed = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return b"".join(len(part).to_bytes(4, "big") + part for part in (b"ssh-ed25519", seed + public))


def _secret(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "wb") as stream:  # noqa: PTH123 - a descriptor
        stream.write(data)
