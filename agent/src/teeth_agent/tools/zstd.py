"""zstd(1) as a filter."""

from __future__ import annotations


def decompress_argv(*, memory: int) -> list[str]:
    """Standard input to standard output, checksums checked; refuses a window above ``memory`` bytes."""
    return ["zstd", "--decompress", "--stdout", "--quiet", f"--memory={memory}", "-"]
