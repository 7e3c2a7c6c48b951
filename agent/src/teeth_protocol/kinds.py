"""The kinds of JSON value that a message's member may be: each reads, writes and describes itself.

shape.py derives them from annotations. ``read`` raises Wrong with words for people and the path below the
value; nothing is built for a path unless something is wrong. ``schema`` puts into ``defs`` what it refers to.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]
MISSING: Any = object()
_BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"


class Wrong(Exception):
    """A value that its kind does not take."""

    def __init__(self, words: str) -> None:
        super().__init__(words)
        self.words = words
        self.path = ""

    def under(self, step: str) -> Wrong:
        self.path = step + self.path
        return self


class Kind:
    """One kind of value. ``fits`` looks at the JSON type alone; ``words`` say what is expected."""

    words = "a value"

    def fits(self, value: Any) -> bool:
        raise NotImplementedError

    def read(self, value: Any) -> Any:
        if not self.fits(value):
            raise Wrong(f"expected {self.words}")
        return value

    def write(self, value: Any) -> Any:
        return value

    def schema(self, defs: Schema) -> Schema:
        raise NotImplementedError


class AnyKind(Kind):
    """Any JSON value: bounded by the wire's own bounds alone."""

    def fits(self, value: Any) -> bool:  # noqa: ARG002
        return True

    def schema(self, defs: Schema) -> Schema:  # noqa: ARG002
        return {}


class FlagKind(Kind):
    words = "true or false"

    def fits(self, value: Any) -> bool:
        return isinstance(value, bool)

    def schema(self, defs: Schema) -> Schema:  # noqa: ARG002
        return {"type": "boolean"}


class TextKind(Kind):
    """``cut``: longer text is cut instead of refused. ``pattern`` must match the whole.

    ``base64``: it must be that, with its padding; told by its decoder, which a megabyte does not trouble.
    """

    def __init__(
        self,
        least: int = 0,
        most: int | None = None,
        pattern: str = "",
        words: str = "",
        cut: bool = False,
        base64: bool = False,
    ) -> None:
        self._base64 = base64
        self._least, self._most, self._pattern, self._cut = least, most, pattern, cut
        self._matches = re.compile(pattern).fullmatch if pattern else None
        self.words = words or "a string"
        self._length = words or f"{least} to {most} characters"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Wrong(f"expected {self.words}")
        if self._most is not None and len(value) > self._most:
            if not self._cut:
                raise Wrong(f"expected {self._length}")
            return value[: self._most]
        if len(value) < self._least:
            raise Wrong(f"expected {self._length}")
        if self._matches is not None and self._matches(value) is None:
            raise Wrong(f"expected {self.words}")
        if self._base64:
            try:
                binascii.a2b_base64(value, strict_mode=True)
            except ValueError:  # binascii.Error is one; letters beyond ASCII raise a plain one
                raise Wrong(f"expected {self.words}") from None
        return value

    def schema(self, defs: Schema) -> Schema:  # noqa: ARG002
        told: Schema = {"type": "string"}
        if self._base64:
            told["contentEncoding"] = "base64"
            told["pattern"] = f"^(?:{_BASE64})$"
        if self._least:
            told["minLength"] = self._least
        if self._most is not None and not self._cut:
            told["maxLength"] = self._most
        if self._pattern:
            told["pattern"] = f"^(?:{self._pattern})$"
        return told


class NumberKind(Kind):
    """A finite number, whole if ``whole``. ``clamp``: what is above ``most`` is read as ``most``."""

    def __init__(
        self, whole: bool, least: float | None = None, most: float | None = None, clamp: bool = False
    ) -> None:
        self._whole, self._least, self._most, self._clamp = whole, least, most, clamp
        self.words = "a whole number" if whole else "a number"

    def fits(self, value: Any) -> bool:
        if isinstance(
            value, float
        ):  # 1.0 is a whole number to JSON Schema, and to writers that know doubles only
            return math.isfinite(value) and (not self._whole or value.is_integer())
        return isinstance(value, int) and not isinstance(value, bool)

    def read(self, value: Any) -> Any:
        if not self.fits(value):
            raise Wrong(f"expected {self.words}")
        if self._most is not None and value > self._most:
            if not self._clamp:
                raise Wrong(f"expected {self._range()}")
            value = self._most
        if self._least is not None and value < self._least:
            raise Wrong(f"expected {self._range()}")
        return int(value) if self._whole else float(value)

    def _range(self) -> str:
        if self._least is None:
            return f"at most {self._most}"
        return (
            f"{self._least} or more"
            if self._most is None or self._clamp
            else f"{self._least} to {self._most}"
        )

    def schema(self, defs: Schema) -> Schema:  # noqa: ARG002
        told: Schema = {"type": "integer" if self._whole else "number"}
        if self._least is not None:
            told["minimum"] = self._least
        if self._most is not None and not self._clamp:
            told["maximum"] = self._most
        return told


class ChoiceKind(Kind):
    """One of a few words."""

    def __init__(self, choices: Sequence[str], words: str = "") -> None:
        self._choices = tuple(choices)
        self.words = words or f"one of {', '.join(choices)}"

    def fits(self, value: Any) -> bool:
        return isinstance(value, str)

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self._choices:
            raise Wrong(f"expected {self.words}")
        return value

    def schema(self, defs: Schema) -> Schema:  # noqa: ARG002
        return {"enum": list(self._choices)}


class ListKind(Kind):
    """A list of one kind, read as a tuple."""

    words = "a list"

    def __init__(self, item: Kind, least: int = 0, most: int | None = None, words: str = "") -> None:
        self._item, self._least, self._most = item, least, most
        self.words = words or self.words

    def fits(self, value: Any) -> bool:
        return isinstance(value, list | tuple)

    def read(self, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise Wrong(f"expected {self.words}")
        if self._most is not None and len(value) > self._most:
            raise Wrong(f"expected at most {self._most} items")
        if len(value) < self._least:
            raise Wrong("expected at least one" if self._least == 1 else f"expected at least {self._least}")
        read, found = self._item.read, []
        try:
            for item in value:
                found.append(read(item))  # noqa: PERF401 - the index of the one that is wrong is needed
        except Wrong as wrong:
            raise wrong.under(f"[{len(found)}]") from None
        return tuple(found)

    def write(self, value: Any) -> list[Any]:
        return [self._item.write(item) for item in value]

    def schema(self, defs: Schema) -> Schema:
        told: Schema = {"type": "array"}
        if self._least:
            told["minItems"] = self._least
        if self._most is not None:
            told["maxItems"] = self._most
        items = self._item.schema(defs)
        return {**told, "items": items} if items else told


class MapKind(Kind):
    """An object with members of any name, each of one kind."""

    words = "an object"

    def __init__(
        self, item: Kind, most: int | None = None, name: int | None = None, texts: Sequence[str] = ()
    ) -> None:
        self._item, self._most, self._name = item, most, name
        self._texts = {text: TextKind(1, 256) for text in texts}

    def fits(self, value: Any) -> bool:
        return isinstance(value, Mapping)

    def read(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise Wrong("expected an object")
        if self._most is not None and len(value) > self._most:
            raise Wrong(f"expected at most {self._most} members")
        found = {}
        for name, kind in self._texts.items():
            if name not in value:
                raise Wrong(f"missing, expected {kind.words}").under(f".{name}")
            try:
                kind.read(value[name])
            except Wrong as wrong:
                raise wrong.under(f".{name}") from None
        for name, item in value.items():
            if self._name is not None and len(name) > self._name:
                raise Wrong(f"expected member names of at most {self._name} characters")
            try:
                found[name] = self._item.read(item)
            except Wrong as wrong:
                raise wrong.under(f".{name[:64]}") from None
        return found

    def write(self, value: Any) -> dict[str, Any]:
        return {name: self._item.write(item) for name, item in value.items()}

    def schema(self, defs: Schema) -> Schema:
        told: Schema = {"type": "object"}
        if self._most is not None:
            told["maxProperties"] = self._most
        if self._name is not None:
            told["propertyNames"] = {"maxLength": self._name}
        if self._texts:
            told["properties"] = {name: kind.schema(defs) for name, kind in self._texts.items()}
            told["required"] = list(self._texts)
        items = self._item.schema(defs)
        return {**told, "additionalProperties": items} if items else told


class UnionKind(Kind):
    """One of several kinds, told apart by their JSON types."""

    def __init__(self, kinds: Sequence[Kind], *, null: bool) -> None:
        self._kinds, self._null = tuple(kinds), null
        self.words = " or ".join(kind.words for kind in kinds)

    def without_null(self) -> UnionKind:
        return UnionKind(self._kinds, null=False)

    def fits(self, value: Any) -> bool:
        return (value is None and self._null) or any(kind.fits(value) for kind in self._kinds)

    def read(self, value: Any) -> Any:
        if value is None and self._null:
            return None
        for kind in self._kinds:
            if kind.fits(value):
                return kind.read(value)
        if len(self._kinds) == 1:
            return self._kinds[0].read(value)
        raise Wrong(f"expected {self.words}")

    def write(self, value: Any) -> Any:
        if value is None:
            return None
        for kind in self._kinds:
            if kind.fits(value):
                return kind.write(value)
        raise TypeError(f"a {type(value).__name__} where {self.words} is meant")

    def schema(self, defs: Schema) -> Schema:
        schemas = [kind.schema(defs) for kind in self._kinds]
        told = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        return nullable(told) if self._null else told


class Member:
    """One member of an object. ``default`` makes a value, None: the member is required."""

    __slots__ = ("default", "kind", "name", "null", "secret")

    def __init__(self, name: str, kind: Kind, default: Callable[[], Any] | None, secret: bool) -> None:
        self.name, self.kind, self.default, self.secret = name, kind, default, secret
        # Null says what leaving it out says; but a flag that is null is neither set nor clear.
        self.null = default is not None and not isinstance(kind, FlagKind) and not kind.fits(None)

    def schema(self, defs: Schema) -> Schema:
        told = nullable(self.kind.schema(defs)) if self.null else self.kind.schema(defs)
        if self.default is not None and (value := self.default()) is not None:
            told = {**told, "default": self.kind.write(value)}
        return {**told, "writeOnly": True, "x-secret": True} if self.secret else told


class ObjectKind(Kind):
    """An object whose members are known. ``closed`` says why another one is refused; "": it is ignored."""

    words = "an object"

    def __init__(self, make: type[Any], title: str, text: str, closed: str) -> None:
        self.make, self.title, self.text, self.closed = make, title, text, closed
        self.members: tuple[Member, ...] = ()
        self.names: frozenset[str] = frozenset()

    def fits(self, value: Any) -> bool:
        return isinstance(value, Mapping | self.make)

    def read(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Wrong("expected an object")
        if self.closed and not self.names.issuperset(value):
            raise Wrong(self.closed).under(f".{min(set(value) - self.names)[:64]}")
        found = {}
        for member in self.members:
            item = value.get(member.name, MISSING)
            if item is MISSING or (item is None and member.null):
                if member.default is None:
                    raise Wrong(f"missing, expected {member.kind.words}").under(f".{member.name}")
                continue
            try:
                found[member.name] = member.kind.read(item)
            except Wrong as wrong:
                raise wrong.under(f".{member.name}") from None
        return self.make(**found)

    def write(self, value: Any) -> dict[str, Any]:
        told = {}
        for member in self.members:
            item = getattr(value, member.name)
            if item is not None:
                told[member.name] = member.kind.write(item)
            elif member.default is None or member.default() is not None:
                told[member.name] = None
        return told

    def schema(self, defs: Schema) -> Schema:
        if self.title not in defs:
            defs[self.title] = {}  # taken, should it hold itself
            defs[self.title] = self.body(defs)
        return {"$ref": f"#/$defs/{self.title}"}

    def body(self, defs: Schema) -> Schema:
        told: Schema = {"title": self.title, "description": self.text, "type": "object"}
        told["properties"] = {member.name: member.schema(defs) for member in self.members}
        required = [member.name for member in self.members if member.default is None]
        if required:
            told["required"] = required
        if self.closed:
            told["additionalProperties"] = False
        return told


def nullable(schema: Schema) -> Schema:
    """``schema``, or null."""
    if "enum" in schema:
        return {**schema, "enum": [*schema["enum"], None]}
    if isinstance(schema.get("type"), str):
        return {**schema, "type": [schema["type"], "null"]}
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema
