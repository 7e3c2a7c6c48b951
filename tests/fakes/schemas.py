"""JSON Schemas as the tests use them: a validator that reads patterns as ECMA-262 does, and values to try."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hypothesis import strategies as st
from jsonschema import Draft202012Validator, ValidationError, validators

Schema = Mapping[str, Any]


def _pattern(_validator: Any, pattern: str, value: Any, _schema: Schema) -> Iterator[ValidationError]:
    # Python's $ also matches before a last line end, JSON Schema's does not.
    if isinstance(value, str) and not re.search(pattern.removesuffix("$") + r"\Z", value):
        yield ValidationError(f"{value[:40]!r} does not match {pattern!r}")


Validator = validators.extend(Draft202012Validator, {"pattern": _pattern})


def validator(schema: Schema) -> Any:
    Draft202012Validator.check_schema(schema)
    return Validator(schema)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def near(schema: Schema) -> st.SearchStrategy[Any]:
    """Values that a schema takes, and values that are wrong in a place or two."""

    @st.composite
    def make(draw: Any) -> Any:
        return _Maker(draw, schema, odds=draw(st.sampled_from([0, 3, 30])))(schema)

    return make()


class _Maker:
    """Makes one value; each decision is wrong once in ``odds`` times (0: never)."""

    def __init__(self, draw: Any, root: Schema, odds: int) -> None:
        self._draw = draw
        self._root = root
        self._odds = odds

    def __call__(self, schema: Schema) -> Any:
        if self._wrong():
            return self._draw(json_values)
        if "$ref" in schema:
            return self(self._root["$defs"][schema["$ref"].rpartition("/")[2]])
        if "if" in schema:
            return self._branch(schema)
        if "anyOf" in schema:
            return self(self._one_of(schema["anyOf"]))
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._one_of(schema["enum"])
        kind = schema.get("type")
        if kind is None:
            return self._draw(json_values)
        return getattr(self, f"_{self._one_of(kind) if isinstance(kind, list) else kind}")(schema)

    def _wrong(self) -> bool:
        return self._odds > 0 and self._draw(st.integers(0, self._odds)) == self._odds

    def _one_of(self, choices: list[Any]) -> Any:
        return self._draw(st.sampled_from(choices))

    def _branch(self, schema: Schema) -> Any:
        branch = self._one_of(["then", "else"])
        value = self(schema.get(branch, {"type": "object"}))
        for name, told in schema["if"].get("properties", {}).items():
            if isinstance(value, dict) and branch == "then":
                value[name] = self(told)
        return value

    def _string(self, schema: Schema) -> str:
        if "pattern" in schema and not self._wrong():
            return str(self._draw(st.from_regex(schema["pattern"].removesuffix("$") + r"\Z")))
        least, most = schema.get("minLength", 0), schema.get("maxLength", 300)
        lengths = [least, min(most, least + 5), most]
        if self._wrong():
            lengths = [max(0, least - 1), most + 1]
        return str(self._draw(st.characters(codec="utf-8"))) * self._one_of(lengths)

    def _number(self, schema: Schema) -> Any:
        least, most = schema.get("minimum", -1000), schema.get("maximum", 1000)
        if self._wrong():
            return self._one_of([least - 1, most + 1, least + 0.5])
        return self._one_of([least, most, float(least), (least + most) // 2])

    _integer = _number

    def _array(self, schema: Schema) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", 8)
        items = schema.get("items", {})
        if self._wrong():
            return [self(items)] * self._one_of([max(0, least - 1), most + 1])
        return [self(items) for _ in range(self._one_of([least, min(most, least + 1), min(most, least + 2)]))]

    def _object(self, schema: Schema) -> dict[str, Any]:
        required = set(schema.get("required", ()))
        value = {}
        for name, told in schema.get("properties", {}).items():
            if not self._wrong() if name in required else self._draw(st.booleans()):
                value[name] = self(told)
        others = schema.get("additionalProperties", {})
        if others is False:
            return {**value, "unheard_of": 1} if self._wrong() else value
        names = st.text(min_size=1, max_size=schema.get("propertyNames", {}).get("maxLength", 8))
        for name in self._draw(st.lists(names, max_size=2)):
            value.setdefault(name, self(others))
        return value

    def _boolean(self, _schema: Schema) -> bool:
        return bool(self._draw(st.booleans()))

    def _null(self, _schema: Schema) -> None:
        return None
