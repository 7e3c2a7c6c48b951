"""xorriso(1): iso9660 file systems."""

from __future__ import annotations

from teeth_agent.run import run


def make(folder: str, target: str, *, label: str) -> None:
    """Everything in ``folder`` as an iso9660 file system with long names in the file ``target``.

    No configuration of its own is read. Raises ToolError.
    """
    options = ["-quiet", "-joliet", "-rational-rock", "-no-pad", "-volid", label, "-output", target]
    run(["xorriso", "-no_rc", "-as", "mkisofs", *options, folder])
