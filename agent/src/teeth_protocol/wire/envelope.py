"""What ``messages.parse`` takes, as JSON Schema: the same rules, said twice and compared by a test."""

from __future__ import annotations

from teeth_protocol.kinds import Schema
from teeth_protocol.messages import METHOD_PATTERN, VERSION
from teeth_protocol.shape import DIALECT
from teeth_protocol.wire.words import ID_PATTERN

_PROBLEM: Schema = {
    "title": "Problem",
    "description": "Why not: msg for people, code for programs. What is not text is read as not given.",
    "type": "object",
    "properties": {"msg": {}, "code": {}, "detail": {}},
}


def envelope() -> Schema:
    """JSON Schema 2020-12 of every message."""
    return {
        "$schema": DIALECT,
        "title": "Message",
        "description": "A command, its success or its error; or a fatal error, whatever stands beside it.",
        "type": "object",
        "if": {"required": ["fatal_error"]},
        "else": {
            "required": ["id"],
            "properties": {
                "version": {"const": VERSION, "default": VERSION},
                "id": {"type": "string", "pattern": f"^(?:{ID_PATTERN})$"},
                "method": {"type": "string", "pattern": f"^(?:{METHOD_PATTERN})$"},
                "result": {"type": "object"},
                "error": {"$ref": "#/$defs/Problem"},
            },
            "oneOf": [{"required": [kind]} for kind in ("method", "result", "error")],
            "dependentSchemas": {"method": {"properties": {"params": {"type": ["object", "null"]}}}},
        },
        "$defs": {"Problem": _PROBLEM},
    }
