"""Configurations of nginx for image files: in front of an endpoint, and as the cache of a rack."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

from teeth.errors import UsageError

# What nginx would take for something else than a part of a path, even between quotes.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9/._+@:=,-]*\Z")
_SIZE = re.compile(r"[1-9][0-9]{0,9}[kmg]\Z")


def front_config(*, listen: str, upstream: str, store: Path) -> str:
    """nginx in front of the boot door at ``upstream``, giving the images in ``store`` out itself.

    ``listen`` and ``upstream`` are HOST:PORT. Raises UsageError for what nginx could misread.
    """
    return _filled("front.conf", LISTEN=listen, UPSTREAM=upstream, STORE=_path(store))


def rack_config(*, listen: str, upstream: str, cache: Path, size: str) -> str:
    """A caching proxy for images. ``size`` as nginx writes it (``50g``): what ``cache`` may grow to.

    Raises UsageError for what nginx could misread.
    """
    if not _SIZE.match(size):
        raise UsageError(f"{size!r} is no size that nginx knows", hint="a number and k, m or g: 50g")
    return _filled("rack.conf", LISTEN=listen, UPSTREAM=upstream, CACHE=_path(cache), SIZE=size)


def _filled(name: str, **values: str) -> str:
    text = (resources.files("teeth.boot") / "templates" / name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _path(path: Path) -> str:
    whole = str(path.absolute())
    if not _PLAIN_PATH.match(whole):
        raise UsageError(
            f"nginx could misread the path {whole}", hint="use letters, digits and / . _ + - : = @ ,"
        )
    return whole
