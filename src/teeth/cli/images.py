"""``teeth image add``, ``list``, ``show``, ``remove``, ``key``, ``params``: the endpoint's image store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from teeth.cli.confirm import confirm
from teeth.cli.door import AS_JSON, operator
from teeth.cli.show import ago, cell, clean, emit, facts, size, table, when
from teeth.errors import UsageError
from teeth.images.add import MAX_SIZE, Order, add
from teeth.images.look import MACHINES
from teeth.images.pack import LEVEL
from teeth.images.store import PUBLIC_KEY, ImageStore, signing_key, verify
from teeth.signing import public_key_digest, public_pem, public_raw

_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}
_DATA = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    help="The endpoint's data folder; without it, the one of teeth --data.",
)
_NAME = click.argument("name")


class _SizeType(click.ParamType[int]):
    """A number of bytes, with K, M, G or T for powers of 1024."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        digits, unit = (value[:-1], value[-1].upper()) if value[-1:].isalpha() else (value, "")
        if not (digits.isascii() and digits.isdigit()) or unit not in ("", *_UNITS):
            self.fail(f"{value!r} is no size: 10737418240, or 10G", param, ctx)
        return int(digits) << _UNITS.get(unit, 0)


@click.command("add")
@click.argument("source", metavar="FILE|URL")
@_DATA
@click.option("--name", help="What to call it; without it, the file's name.")
@click.option(
    "--kind",
    type=click.Choice(["disk", "root"]),
    help="What it must be: a whole disk, or one system's files.",
)
@click.option("--architecture", type=click.Choice(MACHINES), help="For which machines it must be.")
@click.option("--digest", metavar="sha256:HEX", help="Of FILE or URL as it is there.")
@click.option("--force", is_flag=True, help="Keep it although it would not start.")
@click.option(
    "--max-size",
    type=_SizeType(),
    default=MAX_SIZE,
    metavar="SIZE",
    help="Of what it unpacks to; 64G unless given.",
)
@click.option("--level", type=click.IntRange(1, 19), default=LEVEL, show_default=True, help="Of compression.")
@AS_JSON
def add_image(
    source: str,
    data: Path | None,
    name: str | None,
    kind: str | None,
    architecture: str | None,
    digest: str | None,
    force: bool,
    max_size: int,
    level: int,
    as_json: bool,
) -> None:
    """Look at an image, compress and sign it, and keep it for machines to fetch.

    Raw, qcow2 or tar, as it is or compressed by zstd, gzip or xz. A running endpoint offers it at once.
    """
    order = Order(
        source=source, name=name, kind=kind, architecture=architecture, digest=digest, force=force,
        max_size=max_size, level=level,
    )  # fmt: skip
    folder = _folder(data)
    shown = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=shown, disable=not shown.is_terminal) as bars:
        bar = bars.add_task("reading", total=None)
        added = add(
            order,
            folder,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
            say=lambda what: bars.update(bar, description=what),
        )
    image = added.image
    if as_json:
        emit({"fresh": added.fresh, **asdict(image)})
        return
    said = "added" if added.fresh else "is there already"
    packed = f"{size(image.size)}, {size(image.raw_size)} unpacked"
    click.echo(f"{image.name} {said}: {image.kind}, {image.architecture}, {packed}, {image.id}")
    for note in image.notes:
        click.echo(f"teeth: {clean(note)}", err=True)


@click.command("list")
@_DATA
@AS_JSON
def list_images(data: Path | None, as_json: bool) -> None:
    """The images of the store."""
    found = ImageStore(_folder(data)).listing()
    if as_json:
        emit([asdict(one) for one in found])
        return
    table(
        ("name", "kind", "for", "starts by", "size", "unpacked", "added", "id"),
        (
            (
                cell(one.name), cell(one.kind), cell(one.architecture), cell(", ".join(one.boot)),
                cell(size(one.size)), cell(size(one.raw_size)), cell(ago(one.added)), cell(one.id[:19]),
            )
            for one in found
        ),
        empty="no images",
    )  # fmt: skip


@click.command("show")
@_NAME
@_DATA
@AS_JSON
def show_image(name: str, data: Path | None, as_json: bool) -> None:
    """One image (by its name, its id, or the beginning of its digest); its signature is checked."""
    store = ImageStore(_folder(data))
    one = store.find(name)
    manifest = verify(one, store)
    if as_json:
        emit({**asdict(one), "chunks": len(manifest.chunks)})
        return
    facts(
        (
            ("name", cell(one.name)),
            ("id", cell(one.id)),
            ("kind", cell(f"{one.kind}, {one.format}")),
            ("for", cell(one.architecture)),
            ("starts by", cell(", ".join(one.boot))),
            ("kernel", cell(one.kernel)),
            ("size", cell(f"{one.size} bytes, {one.compression}, {len(manifest.chunks)} chunks")),
            ("unpacked", cell(f"{one.raw_size} bytes, {one.raw_digest}")),
            ("signed by", cell(one.key)),
            ("manifest", cell(one.manifest_digest)),
            ("added", cell(when(one.added))),
            ("from", cell(one.source)),
            *(("note", cell(note)) for note in one.notes),
        )
    )


@click.command("remove")
@_NAME
@_DATA
@click.option("--yes", is_flag=True, help="Do not ask.")
def remove_image(name: str, data: Path | None, yes: bool) -> None:
    """Remove an image. Machines that are fetching it get the rest of it; no other can fetch it any more."""
    store = ImageStore(_folder(data))
    one = store.find(name)
    confirm(f"Remove image {one.name} ({one.id[:19]})?", yes=yes, act="removing an image")
    store.remove(one)
    click.echo(f"{one.name} is removed")


@click.command("key")
@_DATA
@AS_JSON
def image_key(data: Path | None, as_json: bool) -> None:
    """The key that signs the manifests: PEM, and its digest as the kernel's command line names it."""
    folder = _folder(data)
    key = signing_key(folder)
    digest = public_key_digest(public_raw(key))
    if as_json:
        emit({"digest": digest, "pem": public_pem(key), "file": str(folder / PUBLIC_KEY)})
        return
    click.echo(public_pem(key), nl=False)
    click.echo(f"teeth.image_key={digest}")


@click.command("params")
@_NAME
@click.option(
    "--base", metavar="URL", multiple=True, help="Fetched from here; without it, a running endpoint is asked."
)
@_DATA
def image_params(name: str, base: tuple[str, ...], data: Path | None) -> None:
    """The `image` member of a standbye.prepare_image, as JSON."""
    if base:
        emit(ImageStore(_folder(data)).find(name).params(base))
        return
    with operator() as door:
        emit(door.get(f"/v1/images/{_segment(name)}")["params"])


COMMANDS = (add_image, list_images, show_image, remove_image, image_key, image_params)


def _segment(name: str) -> str:
    if not name or len(name) > 128 or "/" in name:
        raise UsageError(f"{name[:128]!r} is no image's name", hint="teeth image list shows what there is")
    return name


def _folder(data: Path | None) -> Path:
    if data is None:
        data = click.get_current_context().find_root().params.get("data")
    if data is None:
        raise UsageError("whose images?", hint="--data DIR, the endpoint's data folder, or set TEETH_DATA")
    return data
