"""An initramfs of layers: zstd-compressed cpio archives, one after the other, unpacked in that order.

The kernel takes them so (Documentation/driver-api/early-userspace/buffer-format.rst); cpio stops at the end
of the first, so unpacking here needs to know where each begins.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from teeth.build.dib import as_root
from teeth.proc import run

_ALIGN = 4  # a cpio header must begin at a multiple of four; zeros between archives are skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One archive of an initramfs and where it lies; between two there may be padding."""

    name: str
    offset: int
    bytes: int


def unpack_archive(archive: Path, target: Path) -> None:
    """Unpack one compressed cpio archive over ``target``."""
    target.mkdir(parents=True, exist_ok=True)
    script = 'zstd -dcq -- "$1" | (cd "$2" && cpio --extract --make-directories --unconditional --quiet'
    script += " --preserve-modification-time --no-absolute-filenames)"
    run([*as_root(), "bash", "-o", "pipefail", "-c", script, "unpack", archive.resolve(), target.resolve()])


def pack_paths(root: Path, paths: Sequence[str], archive: Path, *, level: int, epoch: int) -> None:
    """Archive ``paths`` of ``root`` (folders with all below them): sorted, owned by root, stamped."""
    script = (
        'cd "$1" && shift && find "$@" -exec touch --no-dereference --date="@$EPOCH" {} + && '
        'find "$@" -print0 | LC_ALL=C sort -z | '
        "cpio --null --create --format=newc --reproducible --owner=0:0 --quiet | "
        'zstd -q -f -T0 "-$LEVEL" -o "$ARCHIVE"'
    )
    values = [f"EPOCH={epoch}", f"LEVEL={level}", f"ARCHIVE={archive.resolve()}"]
    words = ["env", *values, "bash", "-o", "pipefail", "-c", script, "pack", f"{root.resolve()}"]
    run([*as_root(), *words, *paths])


def join(archives: Iterable[tuple[str, Path]], initramfs: Path) -> list[Layer]:
    """Write the named archives one behind the other; returns what lies where."""
    layers: list[Layer] = []
    with initramfs.open("wb") as sink:
        for name, archive in archives:
            sink.write(bytes(-sink.tell() % _ALIGN))
            start = sink.tell()
            with archive.open("rb") as stream:
                shutil.copyfileobj(stream, sink, 1 << 20)
            layers.append(Layer(name=name, offset=start, bytes=sink.tell() - start))
    return layers


def split(initramfs: Path, layers: Iterable[Layer], folder: Path) -> list[Path]:
    """The archives of ``initramfs`` as files ``NAME.cpio.zst`` in ``folder``, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    archives: list[Path] = []
    with initramfs.open("rb") as stream:
        for layer in layers:
            archive = folder / f"{layer.name}.cpio.zst"
            stream.seek(layer.offset)
            archive.write_bytes(stream.read(layer.bytes))
            archives.append(archive)
    return archives
