"""``teeth image guest``: the operating system images that the demo and the tests deploy."""

from __future__ import annotations

import click

from teeth.build.guest import DISK, GuestManifest, build_guest, guest_folder
from teeth.build.guest_forms import FORMS, build_form, form_folder
from teeth.build.guest_root import ROOT, build_root, root_folder
from teeth.build.guest_tree import DEFAULT_RELEASE, RELEASES
from teeth.paths import Paths, find_checkout


@click.command()
@click.option("--release", type=click.Choice(sorted(RELEASES)), help="Debian's code name.")
@click.option("--form", "forms", multiple=True, type=click.Choice(sorted(FORMS)), help="The disk so, too.")
@click.option("--refresh", is_flag=True, help="Build it anew, with the archive's present packages.")
@click.option("--verbose", "-v", is_flag=True, help="Show diskimage-builder's own lines.")
def guest(release: str | None, forms: tuple[str, ...], refresh: bool, verbose: bool) -> None:
    """Build the operating system image that the demo deploys: build/guest/.

    With --release, that release's whole disk and its root archive, made from one tree: build/guests/.
    """
    paths = find_checkout()
    on_line = click.echo if verbose else None
    wanted = release or DEFAULT_RELEASE
    manifest, built = build_guest(paths, release=wanted, refresh=refresh, say=click.echo, on_line=on_line)
    click.echo(f"guest: {_state(built)}: {_summary(paths, wanted, manifest)}")
    if release is not None:
        # A tree that was just refreshed is the kept one now.
        root, built = build_root(paths, release=wanted, say=click.echo, on_line=on_line)
        click.echo(
            f"guest: {_state(built)}: {root_folder(paths, wanted) / ROOT}, {root.size / 1e6:.0f} MB, "
            f"{root.raw_size / 1e6:.0f} MB unpacked"
        )
    for form in forms:
        other, built = build_form(paths, wanted, form, say=click.echo)
        file = form_folder(paths, wanted, form) / FORMS[form][0]
        click.echo(f"guest: {_state(built)}: {file}, {other.size / 1e6:.0f} MB")


def _state(built: bool) -> str:
    return "built" if built else "up to date"


def _summary(paths: Paths, release: str, manifest: GuestManifest) -> str:
    return (
        f"{guest_folder(paths, release) / DISK}, {manifest.size / 1e6:.0f} MB for a disk of "
        f"{manifest.raw_size / 1e6:.0f} MB, "
        f"Linux {manifest.kernel_version}, {len(manifest.packages)} packages"
    )
