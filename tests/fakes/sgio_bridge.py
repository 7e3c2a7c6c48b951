"""Real tools on a simulated drive without a kernel between: SG_IO is caught in the tool and answered here."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from teeth.lab.drives.answer import Command, Wait
from teeth.lab.drives.unit import Unit

_SHIM = Path(__file__).with_name("sgio_shim.c")
_SENSE_MAX = 252
_TOOL_SECONDS = 60.0


def build_shim(folder: Path) -> Path | None:
    """The library to preload, None where there is no compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "sgio_shim.so"
    argv = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SHIM), "-ldl"]
    subprocess.run(argv, check=True, capture_output=True)
    return library


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A drive that tools find at ``device``."""

    device: Path
    environment: dict[str, str]

    def run(self, *argv: str, status: int | None = 0) -> str:
        """A tool's output, both streams; ``status`` None takes any."""
        words = [str(self.device) if word == "DEVICE" else word for word in argv]
        done = subprocess.run(
            words, env=self.environment, capture_output=True, text=True, timeout=_TOOL_SECONDS, check=False
        )
        said = done.stdout + done.stderr
        assert status is None or done.returncode == status, f"{words} ended with {done.returncode}: {said}"
        return said


@contextmanager
def bench(unit: Unit, library: Path, folder: Path) -> Iterator[Bench]:
    """Let tools reach ``unit`` while the block runs; its clock is the real one."""
    device = folder / "sdz"
    device.touch()
    path = folder / "bridge"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener, unit), daemon=True)
        thread.start()
        yield Bench(
            device=device,
            environment={
                **os.environ,
                "PATH": "/usr/sbin:/sbin:" + os.environ["PATH"],
                "LC_ALL": "C",
                "LD_PRELOAD": str(library),
                "TEETH_DEVICE": str(device),
                "TEETH_SOCKET": str(path),
            },
        )
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _serve(listener: socket.socket, unit: Unit) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rwb") as stream:
            size, outward, length = struct.unpack("=III", stream.read(12))
            cdb = stream.read(size)
            data = stream.read(length) if outward else b""
            answer = unit.execute(Command(cdb=cdb.ljust(16, b"\0"), data=data, nexus="tool", expected=length))
            while isinstance(answer, Wait):
                time.sleep(min(0.05, max(0.0, answer.until - unit.disk.clock())))
                answer = answer.finish() if unit.disk.clock() >= answer.until else answer
            raw = answer.raw[:_SENSE_MAX]
            found = b"" if outward else answer.data[:length]
            stream.write(struct.pack("=III", answer.status, len(raw), len(found)) + raw + found)
            stream.flush()
