"""``teeth endpoint``: what agents dial, and the boot server beside it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import resource
import signal
from pathlib import Path

import click

from teeth.boot.door import TRANSFERS
from teeth.boot.images import load_image
from teeth.cli.address import ADDRESS, Address, shown
from teeth.cli.nginx import nginx
from teeth.endpoint.nearby import Nearby, parse_cache, parse_network
from teeth.errors import UsageError
from teeth.service import Endpoint, EndpointConfig

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def endpoint() -> None:
    """What agents dial, and the boot server beside it."""


endpoint.add_command(nginx)


@endpoint.command()
@click.option("--data", type=_FOLDER, required=True, help="Folder for the CA and the store; made if missing.")
@click.option(
    "--listen", type=ADDRESS, default="127.0.0.1:0", show_default=True, help="Where agents dial (TLS)."
)
@click.option(
    "--boot", type=ADDRESS, default="127.0.0.1:0", show_default=True, help="Boot files by plain HTTP."
)
@click.option("--landing", type=ADDRESS, default="127.0.0.1:0", show_default=True, help="Landings by HTTPS.")
@click.option(
    "--api", type=ADDRESS, default="127.0.0.1:0", show_default=True, help="Where operators ask (loopback)."
)
@click.option(
    "--plaintext", type=ADDRESS, help="For development: agents without TLS and without a token (loopback)."
)
@click.option("--advertise", metavar="HOST", help="Host by which machines reach us, if it is another.")
@click.option("--name", "names", multiple=True, help="Further name or address for the certificate.")
@click.option("--ramdisk", type=_FOLDER, help="Folder with vmlinuz and initramfs to serve.")
@click.option("--image", "images", type=_FOLDER, multiple=True, help="Folder with an image and its manifest.")
@click.option(
    "--image-cache",
    "image_caches",
    metavar="[NETWORK=]URL",
    multiple=True,
    help="HTTP cache asked for images first, by the machines of this network or by all.",
)
@click.option(
    "--image-transfers",
    type=click.IntRange(1, 10_000),
    default=TRANSFERS,
    show_default=True,
    help="How many images leave at the same time.",
)
@click.option("--require-signed-images", is_flag=True, help="Machines take no other images.")
@click.option(
    "--peer-images",
    "peers",
    multiple=True,
    metavar="NETWORK",
    help="Machines of this network may fetch images from each other.",
)
@click.option("--transcript", type=_FILE, help="Write every message here, secrets redacted.")
@click.option("--log", type=_FILE, help="Write the log here, a JSON object a line.")
def run(
    data: Path,
    listen: Address,
    boot: Address,
    landing: Address,
    api: Address,
    plaintext: Address | None,
    advertise: str | None,
    names: tuple[str, ...],
    ramdisk: Path | None,
    images: tuple[Path, ...],
    image_caches: tuple[str, ...],
    image_transfers: int,
    require_signed_images: bool,
    peers: tuple[str, ...],
    transcript: Path | None,
    log: Path | None,
) -> None:
    """Serve until Ctrl-C or SIGTERM."""
    config = EndpointConfig(
        data=data,
        listen=listen,
        boot=boot,
        landing=landing,
        plaintext=plaintext,
        advertise=advertise,
        names=names,
        ramdisk=ramdisk,
        images=tuple(load_image(folder) for folder in images),
        image_caches=tuple(_cache(text) for text in image_caches if _is_url(text)),
        image_transfers=image_transfers,
        require_signed_images=require_signed_images,
        nearby=Nearby(
            caches=tuple(parse_cache(text) for text in image_caches if not _is_url(text)),
            peers=tuple(parse_network(text) for text in peers),
        ),
        transcript=transcript,
        log=log,
    )
    if advertise is None and any(host in ("0.0.0.0", "::") for host, _ in (listen, boot, landing)):  # noqa: S104
        raise UsageError("listening on every address needs --advertise HOST, the one that machines can reach")
    _allow_open_files()
    asyncio.run(_serve(config, api))


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _cache(url: str) -> str:
    if not re.fullmatch(r"https?://[!-.0-~]+(?:/[!-~]*)?", url):
        raise UsageError(f"{url!r} is no address of a cache", hint="http://HOST:PORT")
    return url.rstrip("/")


async def _serve(config: EndpointConfig, api: Address) -> None:
    # Not at the top: the web framework costs every other command a third of a second.
    from teeth.api.door import operator_door

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Endpoint(config) as running, operator_door(running, api) as url:
        plain = ""
        if config.plaintext is not None:
            plain = f"plaintext={shown(config.plaintext[0], running.plaintext_port)} "
        click.echo(
            f"listening {plain}agents={config.listen[0]}:{running.agent_port} boot={running.boot_url}"
            f" landing={config.landing[0]}:{running.landing_port} api={url} ca={running.ca_digest}"
        )
        await stop.wait()


def _allow_open_files() -> None:
    """As many as may be open without a privilege: many systems start a program with fewer than an endpoint
    has connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a container may forbid even that; then it is as it was
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
