"""Messages as frozen dataclasses: one annotation gives strict reader, writer and JSON Schema.

    class Progress:
        task_id: Annotated[str, Text(most=128)]
        eta: Annotated[float, Range(least=0)] | None = None
        token: Annotated[str, Text(most=64), SECRET]

Known are str, int, float, bool, Literal, tuple[T, ...], Mapping[str, T], Any, such dataclasses and unions of
them that differ in their JSON type. A member with a default may be left out, or be null (not a flag). Unknown
members are ignored unless the class says ``CLOSED: ClassVar[str]``, which is what is then said of them.
Nothing is derived before it is used: what a machine never says costs it nothing.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Generic, Literal, TypeVar

from teeth_protocol import kinds
from teeth_protocol.fields import FieldError
from teeth_protocol.kinds import Kind, Member, ObjectKind, Schema, Wrong

DIALECT = "https://json-schema.org/draft/2020-12/schema"
T = TypeVar("T")


class Mark:
    """A word about a member that has no value."""

    def __init__(self, name: str) -> None:
        self.name = name


SECRET = Mark("secret")  # never in a log, a status, a transcript, or readable in a store
REQUIRED = Mark("required")  # must be on the wire although the code has a default for it
NOT_NULL = Mark("not null")  # may be left out, but null is refused: somebody meant something by it


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """Bounds of a string, in characters. ``pattern``: of the whole of it. ``cut``: what is longer is cut."""

    least: int = 1
    most: int | None = None
    pattern: str = ""
    words: str = ""
    cut: bool = False
    base64: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Bounds of a number. ``clamp``: what is above ``most`` is read as ``most``."""

    least: float | None = None
    most: float | None = None
    clamp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """Bounds of a list or a mapping; ``name`` of the length of a mapping's names.

    ``texts``: members that a mapping must have, strings of 1 to 256 characters.
    """

    least: int = 0
    most: int | None = None
    name: int | None = None
    texts: tuple[str, ...] = ()
    words: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms(Generic[T]):
    """Params or a result that comes in several forms.

    The first case decides whose member is there (and has that value, unless None), else ``otherwise``.
    """

    title: str
    text: str
    cases: tuple[tuple[str, str | None, type[T]], ...]
    otherwise: type[T]

    def form(self, value: Mapping[str, Any]) -> type[T]:
        for name, wanted, cls in self.cases:
            if name in value and (wanted is None or value[name] == wanted):
                return cls
        return self.otherwise


def read(cls: type[T] | Forms[T], value: object, path: str = "params") -> T:
    """``value`` as a ``cls``. Raises FieldError naming the path of what is wrong, never quoting the value."""
    if not isinstance(value, Mapping):
        raise FieldError(f"{path}: expected an object")
    try:
        return typing.cast(T, kind_of(cls.form(value) if isinstance(cls, Forms) else cls).read(value))
    except Wrong as wrong:
        raise FieldError(f"{path}{wrong.path}: {wrong.words}") from None


def to_json(value: Any) -> dict[str, Any]:
    """A message as JSON. What is None and may be left out is left out."""
    return kind_of(type(value)).write(value)


def schema(cls: type[Any] | Forms[Any]) -> Schema:
    """JSON Schema 2020-12 of a message, whole in itself."""
    defs: Schema = {}
    if isinstance(cls, Forms):
        body = {"title": cls.title, "description": cls.text, "type": "object", **_branches(cls, defs)}
    else:
        body = kind_of(cls).body(defs)
    told = {"$schema": DIALECT, **body}
    return {**told, "$defs": dict(sorted(defs.items()))} if defs else told


def unknown(cls: type[Any] | Forms[Any], value: Mapping[str, Any]) -> int:
    """How many members of ``value`` its type does not know: they were ignored."""
    kind = kind_of(cls.form(value) if isinstance(cls, Forms) else cls)
    return len(value.keys() - kind.names)


def secret_members(cls: type[Any] | Forms[Any]) -> Iterator[str]:
    """The names of all members, at any depth, that are marked secret."""

    def walk(value: object) -> Iterator[str]:
        if isinstance(value, list):
            for item in value:
                yield from walk(item)
        if isinstance(value, dict):
            for name, item in value.items():
                if isinstance(item, dict) and item.get("x-secret") is True:
                    yield name
                yield from walk(item)

    return walk(schema(cls))


def _branches(forms: Forms[Any], defs: Schema) -> Schema:
    told: Schema = kind_of(forms.otherwise).schema(defs)
    for name, wanted, cls in reversed(forms.cases):
        condition: Schema = {"required": [name]}
        if wanted is not None:
            condition["properties"] = {name: {"const": wanted}}
        told = {"if": condition, "then": kind_of(cls).schema(defs), "else": told}
    return told


def kind_of(cls: type[Any]) -> ObjectKind:
    """A dataclass's kind, derived once."""
    key: Any = cls  # a class can be hashed, which mypy does not see
    return _derive(key)


@functools.cache
def _derive(cls: type[Any]) -> ObjectKind:
    text = " ".join((cls.__doc__ or "").split())
    kind = ObjectKind(cls, cls.__name__, text, getattr(cls, "CLOSED", ""))
    hints = typing.get_type_hints(cls, include_extras=True)
    kind.members = tuple(_member(field.name, hints[field.name], _default(field)) for field in fields(cls))
    kind.names = frozenset(member.name for member in kind.members)
    return kind


def _default(field: Any) -> Callable[[], Any] | None:
    if field.default_factory is not MISSING:
        factory: Callable[[], Any] = field.default_factory
        return factory
    if field.default is MISSING:
        return None
    value = field.default
    return lambda: value


def _member(name: str, annotation: Any, default: Callable[[], Any] | None) -> Member:
    marks = _marks(annotation)
    kind = _kind(annotation, ())
    if NOT_NULL in marks and isinstance(kind, kinds.UnionKind):
        kind = kind.without_null()
    member = Member(name, kind, None if REQUIRED in marks else default, SECRET in marks)
    member.null = member.null and NOT_NULL not in marks
    return member


def _marks(annotation: Any) -> tuple[Any, ...]:
    """Every mark on an annotation, those inside a union too: ``Annotated[str, SECRET] | None`` is secret."""
    found = tuple(getattr(annotation, "__metadata__", ()))
    if _is_union(annotation):
        return found + tuple(mark for part in typing.get_args(annotation) for mark in _marks(part))
    inner = getattr(annotation, "__origin__", None) if found else None
    return found + (_marks(inner) if inner is not None else ())


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _kind(annotation: Any, marks: tuple[Any, ...]) -> Kind:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _kind(arguments[0], (*marks, *reversed(annotation.__metadata__)))
    if _is_union(annotation):
        parts = [part for part in arguments if part is not types.NoneType]
        return kinds.UnionKind([_kind(part, marks) for part in parts], null=len(parts) < len(arguments))
    if origin is Literal:
        words = next((mark.words for mark in marks if isinstance(mark, Text)), "")
        return kinds.ChoiceKind([str(value) for value in arguments], words)
    if origin is tuple:
        items = _mark(marks, Items())
        return kinds.ListKind(_kind(arguments[0], ()), items.least, items.most, items.words)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        items = _mark(marks, Items())
        return kinds.MapKind(_kind(arguments[1], ()), items.most, items.name, items.texts)
    return _plain(annotation, marks)


def _plain(annotation: Any, marks: tuple[Any, ...]) -> Kind:
    if annotation is Any:
        return kinds.AnyKind()
    if annotation is bool:
        return kinds.FlagKind()
    if annotation is str:
        text = _mark(marks, Text(least=0))
        return kinds.TextKind(text.least, text.most, text.pattern, text.words, text.cut, text.base64)
    if annotation in (int, float):
        bounds = _mark(marks, Range())
        return kinds.NumberKind(annotation is int, bounds.least, bounds.most, bounds.clamp)
    return kind_of(annotation)


def _mark(marks: tuple[Any, ...], default: T) -> T:
    """The outermost mark of the default's type."""
    return next((mark for mark in marks if isinstance(mark, type(default))), default)
