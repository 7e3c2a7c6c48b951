"""Typed getters at the JSON edge, so that no untyped mapping travels inward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class FieldError(ValueError):
    """A member is missing or of the wrong kind; the message names its path."""


_MISSING: Any = object()


class Fields:
    """One JSON object and the path that led to it."""

    def __init__(self, value: object, path: str = "params") -> None:
        if not isinstance(value, Mapping):
            raise FieldError(f"{path}: expected an object")
        self._value: Mapping[str, Any] = value
        self.path = path

    def _get(self, name: str, kind: type | tuple[type, ...], words: str, default: Any) -> Any:
        value = self._value.get(name, _MISSING)
        if value is _MISSING or (value is None and default is not _MISSING):
            if default is _MISSING:
                raise FieldError(f"{self.path}.{name}: missing, expected {words}")
            return default
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise FieldError(f"{self.path}.{name}: expected {words}")
        return value

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def names(self) -> list[str]:
        return list(self._value)

    def raw(self, name: str) -> object:
        return self._value.get(name)

    def text(self, name: str, default: Any = _MISSING, *, max_length: int = 64 << 10) -> Any:
        """A string of 1 to ``max_length`` characters (or ``default``, which may be None)."""
        value = self._get(name, str, "a string", default)
        if isinstance(value, str) and value is not default and not 0 < len(value) <= max_length:
            raise FieldError(f"{self.path}.{name}: expected 1 to {max_length} characters")
        return value

    def integer(self, name: str, default: Any = _MISSING, *, least: int = 0, most: int = 2**53) -> Any:
        value = self._get(name, int, "a whole number", default)
        if isinstance(value, int) and value is not default and not least <= value <= most:
            raise FieldError(f"{self.path}.{name}: expected {least} to {most}")
        return value

    def number(self, name: str, default: Any = _MISSING) -> Any:
        return self._get(name, (int, float), "a number", default)

    def flag(self, name: str, default: Any = _MISSING) -> Any:
        return self._get(name, bool, "true or false", default)

    def choice(self, name: str, choices: tuple[str, ...], default: Any = _MISSING) -> Any:
        value = self._get(name, str, "one of " + ", ".join(choices), default)
        if value is not default and value not in choices:
            raise FieldError(f"{self.path}.{name}: expected one of {', '.join(choices)}")
        return value

    def object(self, name: str, *, optional: bool = False) -> Fields | None:
        value = self._get(name, Mapping, "an object", None if optional else _MISSING)
        return None if value is None else Fields(value, f"{self.path}.{name}")

    def items(self, name: str, default: Any = _MISSING, *, most: int = 1024) -> list[Any]:
        value = self._get(name, list, "a list", default)
        if len(value) > most:
            raise FieldError(f"{self.path}.{name}: expected at most {most} items")
        return list(value)

    def texts(self, name: str, default: Any = _MISSING, *, most: int = 1024) -> list[str]:
        values = self.items(name, default, most=most)
        for index, value in enumerate(values):
            if not isinstance(value, str):
                raise FieldError(f"{self.path}.{name}[{index}]: expected a string")
        return values
