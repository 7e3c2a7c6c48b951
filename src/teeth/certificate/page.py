"""A certificate as a page to print. It is only a rendering: what counts is the signed file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from teeth.certificate.seal import Certificate

_TITLES = {"purged": "Purged", "cleared": "Cleared", "excluded": "Left alone"}
_ENVIRONMENT = Environment(
    loader=PackageLoader("teeth.certificate", "templates"),
    autoescape=select_autoescape(default=True, default_for_string=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(certificate: Certificate, *, key: str) -> str:
    """A whole HTML document, nothing in it from elsewhere. ``key``: digest of the signing key."""
    body = certificate.body
    record = body["record"] or {}
    return _ENVIRONMENT.get_template("certificate.html").render(
        body=body,
        record=record,
        digest=certificate.digest,
        key=key,
        title=_TITLES.get(str(body["outcome"]), "NOT erased"),
        good=body["grade"] is not None,
        drive=_drive(record),
        proof=_proof(record.get("proof")),
        attempts=[_text(attempt) for attempt in record.get("attempts", ())],
    )


def _drive(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    names = ("vendor", "model", "serial", "wwn", "firmware", "transport", "media", "size", "devices")
    return [(name, _text(record[name])) for name in names if record.get(name) not in (None, "", [])]


def _proof(proof: Any) -> list[tuple[str, str]]:
    if not isinstance(proof, Mapping):
        return []
    return [(str(name).replace("_", " "), _text(value)) for name, value in proof.items()]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=None)
