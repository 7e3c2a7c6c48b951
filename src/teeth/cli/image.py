"""``teeth image``: what machines boot, and what is written to them."""

from __future__ import annotations

import click

from teeth.build.ramdisk import build_ramdisk
from teeth.build.recipe import find_recipe
from teeth.paths import find_checkout


@click.group()
def image() -> None:
    """Build the ramdisk and the guest image; keep the images that machines are given."""


@image.command()
@click.argument("recipe", default="ramdisk")
@click.option("--refresh", is_flag=True, help="Make the base anew, with the archive's present packages.")
def build(recipe: str, refresh: bool) -> None:
    """Build the ramdisk of RECIPE (a name in image-recipes/, or a file).

    Does nothing when build/ holds it already, made from the same inputs.
    """
    paths = find_checkout()
    built = build_ramdisk(paths, find_recipe(recipe, paths.recipes), say=click.echo, refresh=refresh)
    manifest = built.manifest
    state = "built" if built.fresh else "up to date"
    click.echo(
        f"{manifest['recipe']}: {state}: {built.folder}/initramfs {manifest['initramfs_bytes'] / 1e6:.1f} MB "
        f"({manifest['unpacked_bytes'] / 1e6:.1f} MB unpacked, {manifest['files']} files), "
        f"Linux {manifest['kernel_version']}, key {manifest['key'][:12]}"
    )


# The guest image: `teeth image guest` is teeth.cli.guest's command; teeth.cli adds it to this group.
