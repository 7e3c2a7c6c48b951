"""``teeth image guest``: the operating system image that the demo deploys."""

from __future__ import annotations

import click

from teeth.build.guest import DISK, GuestManifest, build_guest
from teeth.paths import Paths, find_checkout


@click.command()
@click.option("--refresh", is_flag=True, help="Build it anew, with the archive's present packages.")
@click.option("--verbose", "-v", is_flag=True, help="Show diskimage-builder's own lines.")
def guest(refresh: bool, verbose: bool) -> None:
    """Build the operating system image that the demo deploys: build/guest/."""
    paths = find_checkout()
    manifest, built = build_guest(
        paths,
        refresh=refresh,
        say=click.echo,
        on_line=click.echo if verbose else None,
    )
    click.echo(f"guest: {'built' if built else 'up to date'}: {_summary(paths, manifest)}")


def _summary(paths: Paths, manifest: GuestManifest) -> str:
    return (
        f"{paths.guest / DISK}, {manifest.size / 1e6:.0f} MB for a disk of {manifest.raw_size / 1e6:.0f} MB, "
        f"Linux {manifest.kernel_version}, {len(manifest.packages)} packages"
    )
