"""GNU tar(1): the files of an archive on its standard input, with all that belongs to them."""

from __future__ import annotations


def extract_argv(folder: str) -> list[str]:
    """Owners by number, modes as they are, extended attributes and ACLs too.

    Names that are absolute or go up are made harmless by tar itself; links that lead out are only made when
    all files are there. What it complains of is on its standard output, for a reader that never stops.
    """
    options = [
        "--extract",
        "--file=-",
        f"--directory={folder}",
        "--numeric-owner",
        "--same-owner",
        "--preserve-permissions",
        "--delay-directory-restore",
        "--xattrs",
        "--xattrs-include=*",
        "--acls",
        "--warning=none",
    ]
    return ["sh", "-c", 'exec tar "$@" 2>&1', "tar", *options]
