# ruff: noqa
# mypy: ignore-errors
"""try"""

from __future__ import annotations

from pathlib import Path

import pytest

from boot.conftest import Boot
from boot.test_lab_hardware import start_shell
from teeth.lab.drives.server import serve
from teeth.lab.drives.spec import parse
from teeth.lab.network import Nic

pytestmark = [pytest.mark.boot, pytest.mark.image]
MARK = b"REMAINS "
SIZE = 16 << 20
DRIVES = [
    {
        "name": "d0",
        "kind": "nvme",
        "size": "16 MiB",
        "file": "d0.img",
        "erase_seconds": 3,
        "namespaces": [
            {"size": "8 MiB"},
            {"size": "4 MiB", "sector": 4096},
            {"size": "2 MiB", "attached": False},
        ],
    },
    {"name": "d1", "kind": "nvme", "size": "16 MiB", "file": "d1.img", "erase_seconds": 3},
]
COMMANDS = Path("/tmp/p3/N/try/commands").read_text().splitlines()


async def test_try(boot: Boot, tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / f"d{n}.img").write_bytes(MARK * (SIZE // len(MARK)))
    spec = parse(
        {"listen": "127.0.0.1:0", "nvme_advertise": "10.0.2.2", "drive": DRIVES}, tmp_path / "spec.toml"
    )
    out = open("/tmp/p3/N/try/out", "w")
    ramdisk = Path("/tmp/p3/G/tree/build/ramdisk-debug")
    async with serve(spec) as serving:
        port = serving.nvme[0].portal[1]
        _, shell = await start_shell(boot, ramdisk, nics=(Nic(mac="52:54:00:00:00:01"),))
        await shell.run(
            "dmesg -n 1; ip link set lo up; ip addr add 10.0.2.15/24 dev eth0; ip link set eth0 up"
        )
        await shell.run(f"P={port}; N=nqn.2015-01.lab.teeth; modprobe nvme_tcp")
        for command in COMMANDS:
            if not command.strip() or command.startswith("#"):
                continue
            if "IMAGE" in command:
                import base64, gzip

                z = base64.b64encode(gzip.compress(make_image("7.77", size=16384))).decode()
                await shell.run(f"echo {z} | base64 -d | gzip -d > /tmp/fw; ls -l /tmp/fw")
                continue
            if command.startswith("!"):
                match command[1:].split():
                    case ["left", n]:
                        print(
                            f"   LEFT {n}:",
                            (tmp_path / f"d{n}.img").read_bytes()[:SIZE].count(MARK) * 8,
                            file=out,
                            flush=True,
                        )
                    case ["cut", n]:
                        serving.nvme[int(n)].power_off()
                        serving.nvme[int(n)].power_on()
                    case ["add", n, what]:
                        serving.nvme[int(n)].add(what)
                    case ["remove", n, what]:
                        serving.nvme[int(n)].device.disk.remove(what)
                    case ["fill", n]:
                        with (tmp_path / f"d{n}.img").open("r+b") as s:
                            s.write(MARK * (SIZE // 8))
                continue
            lines = await shell.run(f"{{ {command}; }} 2>&1; echo status=$?")
            print("$ " + command + "\n  " + "\n  ".join(lines), file=out, flush=True)
