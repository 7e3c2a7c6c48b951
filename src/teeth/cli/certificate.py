"""``teeth certificate``: signed proof of what became of each drive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from teeth.api.client import Operator
from teeth.certificate.chain import verify_chain
from teeth.certificate.evidence import GRADES
from teeth.certificate.page import render
from teeth.certificate.seal import (
    BadCertificate,
    Certificate,
    key_digest,
    open_sealed,
    read_public_key,
)
from teeth.cli.door import AS_JSON, operator
from teeth.cli.show import ago, cell, clean, emit, emit_line, table
from teeth.endpoint.certify import PUBLIC_KEY
from teeth.errors import TeethError, UsageError

_FILE = click.Path(path_type=Path, dir_okay=False)
_KEY = click.option(
    "--key",
    "key_file",
    type=_FILE,
    help="The endpoint's public key; without it, the one in the data folder that --data names.",
)
_OUTCOMES = {"purged": "green", "cleared": "green", "excluded": "yellow"}


@click.group()
def certificate() -> None:
    """Certificates of erasure: one for each drive, signed, in a chain, failures too."""


@certificate.command("list")
@click.option("--task", help="Only those of this task.")
@click.option("--node", help="Only those of this node.")
@click.option("--serial", help="Only those of the drive with this serial number.")
@AS_JSON
def list_certificates(task: str | None, node: str | None, serial: str | None, as_json: bool) -> None:
    """Certificates, oldest first."""
    with operator() as door:
        found = list(_listed(door, task=task, node=node, serial=serial))
    if as_json:
        emit(found)
        return
    table(
        ("number", "drive", "outcome", "grade", "node", "task", "issued"),
        (
            (
                cell(one["sequence"]), cell(one["serial"]),
                cell(one["outcome"], _OUTCOMES.get(one["outcome"], "red")), cell(one["grade"]),
                cell(one["node"]), cell(one["task_id"]), cell(ago(one["issued"])),
            )
            for one in found
        ),
        empty="no certificates",
    )  # fmt: skip


@certificate.command()
@click.argument("number", type=click.IntRange(min=1), required=False)
@click.option("--task", help="All of this task.")
@click.option("--node", help="All of this node.")
@click.option("--serial", help="All of the drive with this serial number.")
@click.option("--all", "everything", is_flag=True, help="The whole chain, one line each.")
@click.option("--output", "-o", type=_FILE, help="File to write; without it, standard output.")
def save(
    number: int | None,
    task: str | None,
    node: str | None,
    serial: str | None,
    everything: bool,
    output: Path | None,
) -> None:
    """Fetch certificate NUMBER, or several, as they are signed: one line of JSON each."""
    chosen = [value for value in (number, task, node, serial) if value is not None]
    if bool(chosen) == everything or (number is not None and len(chosen) > 1):
        raise UsageError("say which: a NUMBER, --task, --node, --serial or --all")
    with operator() as door:
        if number is not None:
            numbers = [number]
        else:
            numbers = [one["sequence"] for one in _listed(door, task=task, node=node, serial=serial)]
        lines = [door.get(f"/v1/certificates/{one}")["sealed"] for one in numbers]
    if not lines:
        raise TeethError("there is no such certificate", hint="teeth certificate list shows what there is")
    text = "".join(f"{line}\n" for line in lines)
    if output is None:
        click.echo(text, nl=False)
    else:
        _write(output, text)
        click.echo(f"{len(lines)} certificate{'s' if len(lines) > 1 else ''} in {output}")


@certificate.command()
@click.option("--output", "-o", type=_FILE, help="File to write; without it, standard output.")
def key(output: Path | None) -> None:
    """The endpoint's public key: give it to whoever is to verify."""
    with operator() as door:
        pem = door.get("/v1/certificate-key")["pem"]
    if output is None:
        click.echo(pem, nl=False)
    else:
        _write(output, pem)
        click.echo(f"the public key in {output}")


@certificate.command()
@click.argument("file", type=_FILE)
@_KEY
@click.option("--chain", is_flag=True, help="The lines must follow one another without a gap.")
@click.option(
    "--require",
    type=click.Choice(GRADES),
    help="Refuse a certificate whose drive is not proven to be erased to this grade.",
)
@AS_JSON
def verify(file: Path, key_file: Path | None, chain: bool, require: str | None, as_json: bool) -> None:
    """Check the certificates in FILE, offline: that this endpoint signed them and nothing was changed."""
    public = _public_key(key_file)
    lines = _lines(file)
    count = 0
    for opened in verify_chain(lines, public) if chain else _opened(lines, public):
        count += 1
        if as_json:
            emit_line({"digest": opened.digest, **opened.body})
        else:
            click.echo(_told(opened))
        if require is not None and not _reaches(opened, require):
            raise BadCertificate(
                f"certificate {opened.sequence} does not prove an erase to {require}: it says"
                f" {clean(opened.body.get('outcome'))}"
            )
    if not as_json:
        said = f", an unbroken chain of {count}" if chain else ""
        click.echo(f"{count} good signature{'s' if count > 1 else ''} of {key_digest(public)}{said}")


@certificate.command()
@click.argument("file", type=_FILE)
@_KEY
@click.option("--output", "-o", type=_FILE, required=True, help="HTML file to write.")
def page(file: Path, key_file: Path | None, output: Path) -> None:
    """Verify the one certificate in FILE and write it as a page to print."""
    public = _public_key(key_file)
    lines = _lines(file)
    if len(lines) != 1:
        raise UsageError(f"{file} holds {len(lines)} certificates, a page shows one")
    (opened,) = _opened(lines, public)
    _write(output, render(opened, key=key_digest(public)))
    click.echo(f"certificate {opened.sequence} in {output}")


def _listed(door: Operator, **query: Any) -> Iterator[dict[str, Any]]:
    return door.pages("/v1/certificates", "certificates", **query)


def _public_key(key_file: Path | None) -> Ed25519PublicKey:
    if key_file is None:
        data: Path | None = click.get_current_context().find_root().params.get("data")
        if data is None:
            raise UsageError(
                "whose certificates?",
                hint="--key FILE, as `teeth certificate key` printed it, or teeth --data DIR",
            )
        key_file = data / PUBLIC_KEY
    return read_public_key(_read(key_file), str(key_file))


def _lines(file: Path) -> list[bytes]:
    lines = [line for line in _read(file).splitlines() if line.strip()]
    if not lines:
        raise BadCertificate(f"{file} holds no certificate")
    return lines


def _opened(lines: list[bytes], public: Ed25519PublicKey) -> Iterator[Certificate]:
    for number, line in enumerate(lines, 1):
        try:
            yield open_sealed(line, public)
        except BadCertificate as error:
            where = f"line {number}: " if len(lines) > 1 else ""
            raise BadCertificate(f"{where}{error.message}", hint=error.hint) from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise TeethError(f"{file} cannot be written: {error.strerror}") from error


def _told(opened: Certificate) -> str:
    body = opened.body
    record = body.get("record") or {}
    drive = clean(record.get("serial") or record.get("wwn") or "no drive's record")
    by = f" by {clean(record['method'])}" if body.get("grade") and record.get("method") else ""
    why = (
        ""
        if body.get("grade")
        else f" ({clean('; '.join(body['doubts']) or record.get('reason') or 'no reason')})"
    )
    said = f"{drive} {clean(body['outcome'])}{by}"
    return f"certificate {opened.sequence}: {said}, {clean(body['issued'])}{why}"


def _reaches(opened: Certificate, required: str) -> bool:
    grade = opened.body.get("grade")
    return grade in GRADES and GRADES.index(grade) >= GRADES.index(required)
