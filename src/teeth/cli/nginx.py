"""``teeth endpoint nginx``: what to give nginx, so that images reach many machines."""

from __future__ import annotations

from pathlib import Path

import click

from teeth.boot.nginx import front_config, rack_config
from teeth.cli.address import ADDRESS, Address, shown
from teeth.errors import UsageError

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.option("--rack", is_flag=True, help="The cache of a rack, on a machine of its own.")
@click.option("--listen", type=ADDRESS, required=True, help="Where machines ask nginx.")
@click.option("--upstream", type=ADDRESS, required=True, help="The endpoint's boot door (its --boot).")
@click.option("--data", type=_FOLDER, help="The endpoint's data folder, as this nginx sees it.")
@click.option("--cache", type=_FOLDER, help="With --rack: where slices of images are kept.")
@click.option("--size", default="50g", show_default=True, help="With --rack: what the cache may grow to.")
def nginx(
    rack: bool, listen: Address, upstream: Address, data: Path | None, cache: Path | None, size: str
) -> None:
    """Print a configuration for nginx: in front of the endpoint, or (--rack) a cache before it."""
    if not (listen[1] and upstream[1]):
        raise UsageError("nginx needs ports that are known: 0 is none")
    given = {"listen": shown(*listen), "upstream": shown(*upstream)}
    if rack:
        if cache is None or data is not None:
            raise UsageError("--rack needs --cache, and no --data")
        click.echo(rack_config(**given, cache=cache, size=size), nl=False)
    else:
        if data is None or cache is not None:
            raise UsageError("nginx in front needs --data, and no --cache", hint="or --rack --cache FOLDER")
        click.echo(front_config(**given, store=data / "images"), nl=False)
