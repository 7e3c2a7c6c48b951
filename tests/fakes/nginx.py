"""The real nginx on the loopback, with a configuration as it would lie in /etc/nginx/conf.d."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

_MAIN = """
worker_processes 2;
daemon off;
user root;
pid {folder}/nginx.pid;
error_log stderr {level};
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/teeth.conf;
}}
"""
_DEADLINE = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _command(folder: Path, config: str) -> list[str]:
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert program is not None, "nginx is in packages.apt: run scripts/setup"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "teeth.conf").write_text(config)
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, level="error"))
    return [program, "-c", str(folder / "nginx.conf"), "-p", str(folder)]


def accepted(folder: Path, config: str) -> str:
    """What ``nginx -t`` says of a configuration that it accepts; CalledProcessError for any other."""
    said = subprocess.run([*_command(folder, config), "-t"], check=True, capture_output=True, text=True)
    return said.stderr


@contextlib.contextmanager
def nginx(folder: Path, config: str, port: int) -> Iterator[None]:
    """nginx with this configuration until the block is left; ready when ``port`` answers."""
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(_command(folder, config), stderr=log)
    try:
        _wait_for(port, process)
        yield
    finally:
        process.terminate()
        process.wait(_DEADLINE)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _DEADLINE
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    raise AssertionError(f"nginx does not listen on port {port}")
