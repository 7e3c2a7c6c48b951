"""losetup(8): a part of a disk as a block device of its own, while the disk has no partition table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from teeth_agent.errors import ToolError
from teeth_agent.run import run


@contextmanager
def attached(path: str, *, offset: int, length: int, block: int) -> Iterator[str]:
    """The device node of ``length`` bytes from ``offset`` of ``path``; ``block``: its logical block size.

    Raises ToolError.
    """
    # In the ramdisk nothing has asked for a loop device before, and the driver is a module. Where it is built
    # in, or there is none, losetup knows better.
    with suppress(ToolError):
        run(["modprobe", "-q", "loop"], check=False)
    argv = ["losetup", "--find", "--show", f"--offset={offset}", f"--sizelimit={length}"]
    if block != 512:
        argv.append(f"--sector-size={block}")
    node = run([*argv, path]).stdout.strip()
    try:
        # Past the page cache of what lies below: where that cannot be, it is only slower.
        run(["losetup", "--direct-io=on", node], check=False)
        yield node
    finally:
        run(["losetup", "--detach", node])
