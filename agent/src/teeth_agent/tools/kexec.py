"""kexec(8): load and exec are two acts."""

from __future__ import annotations

from pathlib import Path

from teeth_agent.run import run

# Reading and checking kernel and initrd took 2.3 s under emulation; a slow disk may take its time.
_LOAD_TIMEOUT = 180.0


def load(kernel: Path, *, initrd: Path | None, command_line: str) -> None:
    """Load by kexec_file_load (the kernel reads and judges the file itself). Raises ToolError."""
    argv = ["kexec", "--kexec-file-syscall", "--load", str(kernel), f"--command-line={command_line}"]
    run([*argv, f"--initrd={initrd}"] if initrd else argv, timeout=_LOAD_TIMEOUT)


def unload() -> None:
    run(["kexec", "--kexec-file-syscall", "--unload"], check=False)


def execute() -> None:
    """Jump into the loaded kernel: no return but for a ToolError. File systems must be flushed before."""
    run(["kexec", "--exec"])
