"""Command line of teeth: the only click."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from teeth import __version__
from teeth.cli.certificate import certificate
from teeth.cli.demo import demo
from teeth.cli.endpoint import endpoint
from teeth.cli.grant import grant
from teeth.cli.guest import guest
from teeth.cli.image import image
from teeth.cli.images import COMMANDS as IMAGE_COMMANDS
from teeth.cli.lab import lab
from teeth.cli.node import node
from teeth.cli.protocol import protocol
from teeth.cli.task import task
from teeth.errors import TeethError

_INTERRUPTED = 130  # what a shell gives for a program that Ctrl-C ended


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="teeth")
@click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    envvar="TEETH_DATA",
    show_envvar=True,
    help="The endpoint that node, task, grant and certificate ask: its data folder.",
)
def teeth(data: Path | None) -> None:
    """Boot bare servers into a small ramdisk; erase with proof, write an image, start it."""


for command in (certificate, demo, endpoint, grant, image, lab, node, protocol, task):
    teeth.add_command(command)
for command in (guest, *IMAGE_COMMANDS):
    image.add_command(command)


def main(argv: list[str] | None = None) -> None:
    """Run one command: what it refuses is one line on standard error and a non-zero status."""
    handler = logging.StreamHandler()
    # On the handler, not on the root: a log file of the same run may want more than the terminal.
    handler.setLevel(logging.WARNING)
    logging.basicConfig(handlers=[handler], format="%(levelname)s %(name)s: %(message)s")
    code: Any = 0
    try:
        code = teeth.main(args=argv, prog_name="teeth", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except TeethError as error:
        click.echo(f"teeth: {error}", err=True)
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("teeth: interrupted", err=True)
        code = _INTERRUPTED
    sys.exit(code if isinstance(code, int) else 0)
