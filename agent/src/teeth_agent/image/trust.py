"""Whose images this boot takes: with ``teeth.image_key``, only those with a manifest signed by that key.

Without a key an image is trusted as far as the session is that names its digest.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from teeth_agent.errors import AgentError
from teeth_agent.tools import openssl
from teeth_image.manifest import ImageManifest, signed_bytes


def check(manifest: ImageManifest | None, *, key: str | None, work: Path | None = None) -> None:
    """``manifest``: of the image at hand, already compared with it; ``key``: "sha256:HEX" of the raw key.

    ``work``: where files may be put for a moment. Raises AgentError: image_unsigned, image_signature
    (another key's, or not over this manifest); ToolError if there is no openssl.
    """
    if key is None:
        return
    if manifest is None:
        raise AgentError(
            f"this machine takes only images with a manifest signed by {key}; the image has none",
            code="image_unsigned",
        )
    if manifest.key is None or manifest.signature is None:
        raise AgentError(
            f"this machine takes only images signed by {key}; the image's manifest is not signed",
            code="image_unsigned",
        )
    if manifest.key_digest != key:
        raise AgentError(
            f"the image's manifest is signed by {manifest.key_digest}, this machine takes only {key}",
            code="image_signature",
        )
    if not openssl.verify_ed25519(
        manifest.key, manifest.signature, signed_bytes(manifest), work=work or _work()
    ):
        raise AgentError("the signature of the image's manifest is not right", code="image_signature")


def _work() -> Path:
    return Path(tempfile.gettempdir())
