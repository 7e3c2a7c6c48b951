"""Boot entries as text: grub.cfg, grubenv, Boot Loader Specification files. Nothing here touches a disk.

Only what a person would read out of these files is understood; GRUB's script language is not run. What an
entry needs beyond that makes it unusable, never guessed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from teeth_image.errors import ImageError

_LINUX = ("linux", "linux16", "linuxefi")
_INITRD = ("initrd", "initrd16", "initrdefi")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
# GRUB's device prefix: "($root)/boot/vmlinuz", "(hd0,gpt1)/vmlinuz".
_DEVICE = re.compile(r"^\([^)]*\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class BootEntry:
    """One way to start the system; paths as the boot loader sees them, from its own root folder.

    ``index`` is GRUB's number of the entry ("0", "1>2" in a submenu), "" for BLS.
    """

    title: str
    id: str
    index: str
    kernel: str
    initrds: tuple[str, ...]
    options: str
    source: str


def parse_grubenv(text: str) -> dict[str, str]:
    """grub-editenv's block: NAME=value lines, padded with #."""
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines if "=" in line)


def parse_bls(name: str, text: str, env: Mapping[str, str]) -> BootEntry | None:
    """One loader/entries/*.conf; None if it starts no kernel (or another loader's thing).

    Specification: UAPI.1. ``env`` fills in $kernelopts and the like as GRUB's blscfg does.
    """
    fields: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().partition(" ")
        if key and not key.startswith("#"):
            fields.setdefault(key, []).append(_expand(value.strip(), env))
    kernel = fields.get("linux", [""])[-1]
    if not kernel:
        return None
    return BootEntry(
        title=fields.get("title", [name])[-1],
        id=name.removesuffix(".conf"),
        index="",
        kernel=_loader_path(kernel),
        initrds=tuple(_loader_path(path) for value in fields.get("initrd", []) for path in value.split()),
        options=" ".join(value for value in fields.get("options", []) if value),
        source=f"BLS entry {name}",
    )


def choose_bls(entries: Iterable[BootEntry], env: Mapping[str, str]) -> BootEntry | None:
    """GRUB's saved entry, else the newest by its name; rescue entries only when there is nothing else."""
    found = list(entries)
    saved = next((one for one in found if one.id == env.get("saved_entry")), None)
    return saved or max(found, key=lambda one: ("-rescue" not in one.id, version_key(one.id)), default=None)


def variables_of(text: str, env: Mapping[str, str]) -> dict[str, str]:
    """What a grub.cfg sets outside its entries, last value wins; what grubenv says wins over it."""
    found = dict(env)
    for line in _lines(text):
        words = _split(line)
        if len(words) == 2 and words[0] == "set" and "=" in words[1]:
            name, _, value = words[1].partition("=")
            found[name] = _expand(value, found)
    return found | {name: value for name, value in env.items() if value}


def parse_grub_cfg(text: str, env: Mapping[str, str]) -> list[BootEntry]:
    """The menu entries that start a Linux kernel, in their order, those of submenus included.

    In an entry with alternatives (Ubuntu's boot without an initrd), the first ``linux`` and the first
    ``initrd`` count: both are of the ordinary way.
    """
    parser = _Menu(variables_of(text, env))
    for line in _lines(text):
        parser.line(line)
    return parser.entries


def choose_grub(entries: Sequence[BootEntry], text: str, env: Mapping[str, str]) -> BootEntry:
    """The entry GRUB would start by itself. Raises ImageError(no_boot_entry).

    ``default`` is a number, a title or an id, from grub.cfg or from grubenv's saved_entry; what names no
    entry here means the first one, as in GRUB.
    """
    if not entries:
        raise ImageError("grub.cfg has no menu entry that starts a Linux kernel", code="no_boot_entry")
    wanted = env.get("next_entry") or _default(text, env)
    last = wanted.rpartition(">")[2]
    found = [one for one in entries if wanted in (one.index, one.id, one.title)]
    # "submenu>entry" by ids or titles: the entry's own name is enough.
    found += [one for one in entries if ">" in wanted and last in (one.id, one.title)]
    return (found or list(entries))[0]


def uses_bls(text: str) -> bool:
    """Whether a grub.cfg takes its entries from loader/entries."""
    return re.search(r"^\s*(?:blscfg|bls_import)\b", text, re.MULTILINE) is not None


def why_no_entries(text: str) -> tuple[bool, str]:
    """For a grub.cfg without one usable entry: whether it is surely damaged, and why for a person."""
    if not text.strip():
        return True, "is empty"
    if "\0" in text or "\ufffd" in text:
        return True, "is no text: damaged"
    opened, closed = (len(re.findall(pattern, text, re.MULTILINE)) for pattern in (r"\{\s*$", r"^\s*\}"))
    if opened > closed:
        return True, "is cut short: a block of it does not end"
    return False, "has no menu entry that starts a Linux kernel"


class _Menu:
    """Follows a grub.cfg's blocks line by line: menuentry, submenu and function end with a lone brace."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.entries: list[BootEntry] = []
        self._variables = variables
        self._blocks: list[str] = []
        self._counts = [0]
        self._prefix: list[int] = []
        self._head: list[str] | None = None
        self._kernel: list[str] = []
        self._initrds: list[str] = []

    def line(self, line: str) -> None:
        if line == "}":
            self._close()
            return
        words = _split(line)
        command = words[0] if words else ""
        if command == "menuentry":
            self._head, self._kernel, self._initrds = words, [], []
        elif command in ("submenu", "function"):
            self._open(command)
        elif command in _LINUX and not self._kernel:
            self._kernel = words[1:]
        elif command in _INITRD and not self._initrds:
            self._initrds = words[1:]

    def _open(self, block: str) -> None:
        self._blocks.append(block)
        if block == "submenu":
            self._prefix.append(self._counts[-1])
            self._counts.append(0)

    def _close(self) -> None:
        if self._head is not None:
            if self._kernel:
                self.entries.append(self._entry(self._head))
            self._head = None
            self._counts[-1] += 1
        elif self._blocks and self._blocks.pop() == "submenu":
            self._counts.pop()
            self._prefix.pop()
            self._counts[-1] += 1

    def _entry(self, head: Sequence[str]) -> BootEntry:
        kernel, *options = (_expand(word, self._variables) for word in self._kernel)
        return BootEntry(
            title=head[1] if len(head) > 1 else "",
            id=_option(head, "--id") or _option(head, "$menuentry_id_option"),
            index=">".join(str(number) for number in (*self._prefix, self._counts[-1])),
            kernel=_loader_path(kernel),
            initrds=tuple(_loader_path(_expand(path, self._variables)) for path in self._initrds),
            options=" ".join(_quote(option) for option in options if option),
            source="grub.cfg",
        )


def _loader_path(path: str) -> str:
    return _DEVICE.sub("", path)


def _option(words: Sequence[str], name: str) -> str:
    for index, word in enumerate(words):
        if word == name and index + 1 < len(words):
            return words[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return ""


def _default(text: str, env: Mapping[str, str]) -> str:
    found = re.findall(r"^\s*set\s+default=[\"']?([^\"'\n]*)", text, re.MULTILINE)
    expanded = [_expand(value.strip(), env) for value in found]
    return next((value for value in reversed(expanded) if value), "0")


def _expand(text: str, variables: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda found: variables.get(found[1] or found[2], ""), text)


def _quote(option: str) -> str:
    """The kernel's own quoting: double quotes around a value with spaces."""
    if not re.search(r"\s", option):
        return option
    name, sign, value = option.partition("=")
    return f'{name}{sign}"{value}"' if sign else f'"{option}"'


def _split(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:
        return []  # half of a quoted string over several lines: none of the commands that matter here


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in text.replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def version_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Numbers in a name compare as numbers; a letter run sorts before a number, as rpm has it."""
    parts = re.findall(r"\d+|[a-zA-Z]+", name)
    return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts)
