"""TOML tables read key by key: every mistake becomes a line of its own that says where it is."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from teeth.errors import UsageError

_SIZE = re.compile(r"(\d+) *(B|KiB|MiB|GiB|TiB|kB|MB|GB|TB)")
_UNITS = {
    "B": 1,
    **{f"{letter}iB": 1 << (10 * power) for power, letter in enumerate("KMGT", 1)},
    **{f"{letter}B": 1000**power for power, letter in enumerate("kMGT", 1)},
}
_TIME = re.compile(r"(\d+(?:\.\d+)?) *(us|ms|s|min)")
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}
E = TypeVar("E", bound=Enum)


class DescriptionError(UsageError):
    """A description has mistakes; ``lines`` tells one each."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\nteeth: ".join(lines))
        self.lines = lines


def read_toml(path: Path) -> dict[str, Any]:
    """The file's document; UsageError in one line when it cannot be read or is no TOML."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}") from error


def parse_size(text: str) -> int | None:
    """Bytes of ``1 GiB`` or ``500 MB``; None for anything else."""
    match = _SIZE.fullmatch(text.strip())
    return int(match[1]) * _UNITS[match[2]] if match else None


def parse_seconds(text: str) -> float | None:
    """Seconds of ``20 ms``, ``1.5 s``, ``2 min``; None for anything else."""
    match = _TIME.fullmatch(text.strip())
    return float(match[1]) * _TIMES[match[2]] if match else None


class Table:
    """A table. What is wrong is noted in ``mistakes``, and what was never asked for is one too many."""

    def __init__(self, value: Mapping[str, Any], where: str, file: str, mistakes: list[str]) -> None:
        self._value = value
        self._asked: dict[str, None] = {}
        self.where = where
        self.file = file
        self.mistakes = mistakes

    def mistake(self, text: str) -> None:
        where = f"{self.file}: {self.where}: " if self.where else f"{self.file}: "
        self.mistakes.append(where + text)

    def has(self, name: str) -> bool:
        self._asked[name] = None
        return name in self._value

    def _get(self, name: str, kinds: type | tuple[type, ...], said: str) -> Any:
        """The value, None when there is none of these kinds (a mistake, unless it is absent)."""
        self._asked[name] = None
        if name not in self._value:
            return None
        value = self._value[name]
        boolean = kinds is bool or (isinstance(kinds, tuple) and bool in kinds)
        if not isinstance(value, kinds) or (isinstance(value, bool) and not boolean):
            self.mistake(f"{name} = {_short(value)} is not {said}")
            return None
        return value

    def text(self, name: str, default: str = "") -> str:
        value = self._get(name, str, "a text in quotes")
        return default if value is None else str(value)

    def number(self, name: str, default: int) -> int:
        value = self._get(name, int, "a whole number")
        return default if value is None else int(value)

    def decimal(self, name: str, default: float = 0.0) -> float:
        value = self._get(name, (int, float), "a number")
        return default if value is None else float(value)

    def switch(self, name: str, default: bool) -> bool:
        value = self._get(name, bool, "true or false")
        return default if value is None else bool(value)

    def size(self, name: str) -> int | None:
        """Bytes."""
        value = self._get(name, str, 'a size such as "1 GiB"')
        return None if value is None else self._size(name, value)

    def _size(self, name: str, value: object) -> int | None:
        found = parse_size(value) if isinstance(value, str) else None
        if not found:
            self.mistake(f'{name} = {_short(value)} is not a size such as "1 GiB" or "500 MB"')
            return None
        return found

    def sizes(self, name: str) -> list[int]:
        values = self._get(name, list, "a list of sizes") or []
        found = [self._size(name, value) for value in values]
        return [size for size in found if size is not None]

    def seconds(self, name: str, default: float = 0.0) -> float:
        value = self._get(name, (int, float, str), 'a time such as "20 s"')
        if value is None:
            return default
        found = parse_seconds(value) if isinstance(value, str) else float(value)
        if found is None or found < 0:
            self.mistake(f'{name} = {_short(value)} is not a time such as "20 s" or "5 ms"')
            return default
        return found

    def choice(self, name: str, allowed: Collection[str], default: str) -> str:
        value = self.text(name, default)
        if value not in allowed:
            self.mistake(f"{name} = {value!r}: there is no such one{near(value, allowed)}")
            return default
        return value

    def one_of(self, name: str, kind: type[E], default: E) -> E:
        return kind(self.choice(name, [str(member.value) for member in kind], str(default.value)))

    def texts(self, name: str) -> list[str]:
        value = self._get(name, list, "a list of texts")
        if value is None or not all(isinstance(item, str) for item in value):
            if value is not None:
                self.mistake(f"{name} = {_short(value)} is not a list of texts")
            return []
        return list(value)

    def table(self, name: str) -> Table:
        """The table ``name``; an empty one where there is none."""
        value = self._get(name, dict, f"a table, [{self._inner(name)}]")
        return Table(value or {}, f"[{self._inner(name)}]", self.file, self.mistakes)

    def named(self, name: str) -> dict[str, Table]:
        """The tables below ``name``, by their own names."""
        value = self._get(name, dict, f"tables, [{name}.NAME]") or {}
        found = {}
        for inner, content in value.items():
            if isinstance(content, dict):
                found[inner] = Table(content, f"[{name}.{inner}]", self.file, self.mistakes)
            else:
                self.mistake(f"{name}.{inner} = {_short(content)} is not a table, [{name}.{inner}]")
        return found

    def tables(self, name: str) -> list[Table]:
        """The entries of [[name]], in order."""
        value = self._get(name, list, f"written as [[{self._inner(name)}]]") or []
        found = []
        for number, item in enumerate(value, 1):
            where = f"[[{self._inner(name)}]] {number}"
            if isinstance(item, dict):
                found.append(Table(item, where, self.file, self.mistakes))
            else:
                self.mistake(f"{name} {number} is not a table, [[{self._inner(name)}]]")
        return found

    def raw_value(self, name: str) -> Any:
        """The value as it stands, None when there is none."""
        self._asked[name] = None
        return self._value.get(name)

    def raw(self) -> dict[str, Any]:
        """All of it, for a reader of its own; nothing of it is left over then."""
        self._asked.update(dict.fromkeys(self._value))
        return dict(self._value)

    def leftovers(self) -> None:
        for name in sorted(set(self._value) - set(self._asked)):
            self.mistake(f"{name}: there is no such key{near(name, self._asked)}")

    def _inner(self, name: str) -> str:
        outer = self.where.strip("[] 0123456789") if self.where.startswith("[[") else self.where.strip("[]")
        return f"{outer}.{name}" if outer else name


def near(name: str, known: Collection[str]) -> str:
    """What somebody may have meant: the nearest name, else all there are."""
    close = difflib.get_close_matches(name, list(known), n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there are {', '.join(known)}" if known else ""


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
