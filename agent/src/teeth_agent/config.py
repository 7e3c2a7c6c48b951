"""What this boot was told: kernel command line over baked file over built-in values."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from teeth_agent import sysfs
from teeth_agent.errors import AgentError

BAKED = "/etc/teeth/agent.json"
BAKED_CA = "/etc/teeth/ca.pem"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MAX_ENDPOINTS = 8
_MAX_BUILT = 2**33  # the year 2242; a build time beyond it is no build time
# RFC 1123; resolvers raise odd errors for anything else.
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\Z")
_MAX_HOST = 253


class ConfigError(AgentError):
    """The kernel command line or the baked file cannot be used; the message names the argument."""

    code = "bad_config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One boot's settings.

    ``endpoints`` are tried in order. ``ca_digest`` ("sha256:HEX" of the CA certificate's DER) or ``ca_file``
    says whom to trust; with neither the agent never dials. ``token`` reads the join token, a secret, anew
    from where it came ("" if there is none): nothing keeps it, so nothing can leak it.
    ``image_key`` ("sha256:HEX" of a raw Ed25519 key): only images that it signed are taken; None: any.
    ``boot_mac`` is the address of the NIC that the firmware booted from, "" if unknown.
    """

    endpoints: tuple[tuple[str, int], ...]
    ca_digest: str | None
    ca_file: Path | None
    token: Callable[[], str] = field(repr=False, compare=False)
    boot_mac: str
    ramdisk: str
    built: int
    version: str
    image_key: str | None = None


def parse_cmdline(text: str) -> dict[str, str]:
    """The words of a kernel command line; the last of equal names wins, quotes are the kernel's."""
    found: dict[str, str] = {}
    for match in re.finditer(r'((?:[^\s"]|"[^"]*")+)', text):
        name, _, value = match.group(1).replace('"', "").partition("=")
        found[name] = value
    return found


def parse_endpoint(text: str) -> tuple[str, int]:
    """HOST:PORT, with an IPv6 host in brackets. Raises ConfigError."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]+)):([0-9]{1,5})", text)
    if (
        match is None
        or not 0 < int(match.group(3)) < 65536
        or not _valid_host(match.group(1), match.group(2))
    ):
        raise ConfigError(f"teeth.endpoint={text[:80]}: expected HOST:PORT")
    return match.group(1) or match.group(2), int(match.group(3))


def _valid_host(ipv6: str | None, name: str | None) -> bool:
    if ipv6 is not None:
        try:
            socket.inet_pton(socket.AF_INET6, ipv6)
        except OSError:
            return False
        return True
    return name is not None and len(name) <= _MAX_HOST and all(_LABEL.match(x) for x in name.split("."))


def load(root: Path = Path("/")) -> Config:
    """Read this machine's settings below ``root``. Raises ConfigError."""
    words = _words(root)
    baked = _baked(root)
    named = words.get("teeth.endpoint", "")
    texts = [text for text in named.split(",") if text]
    if not texts:
        raise ConfigError("no teeth.endpoint=HOST:PORT on the kernel command line")
    if len(texts) > _MAX_ENDPOINTS:
        raise ConfigError(f"teeth.endpoint names more than {_MAX_ENDPOINTS} endpoints")
    digest = words.get("teeth.ca")
    if digest is not None and not _DIGEST.match(digest):
        raise ConfigError("teeth.ca: expected sha256: and 64 lower-case hex digits")
    image_key = words.get("teeth.image_key")
    if image_key is not None and not _DIGEST.match(image_key):
        # Taken for none, it would let every image in.
        raise ConfigError("teeth.image_key: expected sha256: and 64 lower-case hex digits")
    ca_file = root / BAKED_CA.lstrip("/")
    if digest is None and not ca_file.is_file():
        raise ConfigError(f"whom to trust is not said: no teeth.ca= and no {BAKED_CA}")
    return Config(
        endpoints=tuple(parse_endpoint(text) for text in texts),
        ca_digest=digest,
        ca_file=ca_file if ca_file.is_file() else None,
        token=lambda: _words(root).get("teeth.token", ""),
        boot_mac=_boot_mac(words.get("BOOTIF", "")),
        image_key=image_key,
        ramdisk=str(baked.get("ramdisk", "unknown")),
        built=_built(baked.get("built")),
        version=str(baked.get("version", "unknown")),
    )


def _words(root: Path) -> dict[str, str]:
    return parse_cmdline(sysfs.read_text(root, "/proc/cmdline", "") or "")


def _baked(root: Path) -> dict[str, object]:
    text = sysfs.read_text(root, BAKED)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        raise ConfigError(f"{BAKED} is not JSON") from None
    return value if isinstance(value, dict) else {}


def _built(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < _MAX_BUILT else 0


def _boot_mac(bootif: str) -> str:
    """PXELINUX's BOOTIF is the hardware type and the address, joined by dashes: 01-52-54-00-aa-bb-cc."""
    match = re.fullmatch(r"(?:01[-:])?([0-9a-f]{2}(?:[-:][0-9a-f]{2}){5})", bootif.lower())
    return match.group(1).replace("-", ":") if match else ""
