"""Package files kept from build to build.

diskimage-builder's own package cache is emptied by the ``apt-get clean`` of each build, and two builds
cannot share one folder (apt locks it). So each build gets a folder of its own with hard links to what is
kept, and what it fetched is linked back afterwards.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def lend_debs(store: Path, view: Path) -> None:
    """Fill ``view`` with links to every package file of ``store``, ready for apt."""
    store.mkdir(parents=True, exist_ok=True)
    (view / "partial").mkdir(parents=True, exist_ok=True)
    for deb in store.glob("*.deb"):
        _link(deb, view / deb.name)


def keep_debs(view: Path, store: Path) -> None:
    """Link package files that ``view`` gained into ``store``; an older version of the same package goes."""
    for deb in sorted(view.glob("*.deb")):
        if not (store / deb.name).exists():
            name, _, rest = deb.name.partition("_")
            architecture = rest.rpartition("_")[2]
            for old in store.glob(f"{name}_*_{architecture}"):
                old.unlink(missing_ok=True)
            _link(deb, store / deb.name)


def _link(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)
