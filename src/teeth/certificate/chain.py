"""Many certificates at once: each one's signature, and that none is missing between them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from teeth.certificate.body import FIRST_PREVIOUS
from teeth.certificate.seal import BadCertificate, Certificate, open_sealed


def verify_chain(lines: Iterable[bytes], key: Ed25519PublicKey) -> Iterator[Certificate]:
    """Open every line, in order; each must follow the one before it. Raises BadCertificate naming the line.

    A chain may begin anywhere; one that begins with number 1 must begin as the first one does.
    """
    before: Certificate | None = None
    for number, line in enumerate(lines, 1):
        try:
            found = open_sealed(line, key)
            _check_place(found, before)
        except BadCertificate as error:
            raise BadCertificate(f"line {number}: {error.message}", hint=error.hint) from error
        yield found
        before = found


def _check_place(found: Certificate, before: Certificate | None) -> None:
    if before is None:
        if found.sequence == 1 and found.body["previous"] != FIRST_PREVIOUS:
            raise BadCertificate("it says that it is the first, and that another one stood before it")
        return
    if found.sequence != before.sequence + 1:
        raise BadCertificate(
            f"number {found.sequence} follows number {before.sequence}: some are missing or out of order"
        )
    if found.body["previous"] != before.digest:
        raise BadCertificate(f"it does not follow number {before.sequence} as that one stands here")
