"""What may be wrong with an image that somebody adds."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from teeth.errors import TeethError
from teeth_image.errors import ImageError


class BadImage(TeethError):
    """It is not an image that could be used: damaged, not what was promised, or nothing that starts."""

    exit_code = 1


@contextlib.contextmanager
def plain_errors(what: str) -> Iterator[None]:
    """What the shared readers and the operating system say, as one line about ``what``."""
    try:
        yield
    except ImageError as error:
        raise BadImage(f"{what}: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise TeethError(f"{what}: there is no space left to keep it", hint="nothing was kept") from error
        raise TeethError(f"{what}: {error.strerror or error}") from error
