"""``teeth image guest``: the operating system image that the demo deploys."""

from __future__ import annotations

import time

import click

from teeth.build.guest import DISK, GuestManifest, build_guest
from teeth.paths import Paths, find_checkout


@click.command()
@click.option("--force", is_flag=True, help="Build even when nothing has changed.")
@click.option("--verbose", "-v", is_flag=True, help="Show diskimage-builder's own lines.")
def guest(force: bool, verbose: bool) -> None:
    """Build the operating system image that the demo deploys: build/guest/."""
    paths = find_checkout()
    started = time.monotonic()
    manifest, built = build_guest(
        paths,
        force=force,
        say=lambda line: click.echo(f"guest image: {line}"),
        on_line=click.echo if verbose else None,
    )
    state = f"built in {time.monotonic() - started:.0f} s" if built else "up to date"
    click.echo(f"guest image: {state}: {_summary(paths, manifest)}")


def _summary(paths: Paths, manifest: GuestManifest) -> str:
    return (
        f"{paths.guest / DISK}, {manifest.size / 1e6:.0f} MB for a disk of {manifest.raw_size / 1e6:.0f} MB, "
        f"Linux {manifest.kernel_version}, {len(manifest.packages)} packages"
    )
