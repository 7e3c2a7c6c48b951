"""The agent's NVMe erases through the debug ramdisk's kernel, on drives that are served by NVMe/TCP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boot.conftest import Boot
from boot.test_lab_hardware import start_shell
from boot.test_passthrough import answer_of, program
from teeth.lab.drives.server import serve
from teeth.lab.drives.spec import parse
from teeth.lab.network import HOST_ADDRESS, Nic
from teeth.paths import Paths

pytestmark = [pytest.mark.boot, pytest.mark.image]

SIZE = 16 << 20
MARK = b"REMAINS "

PROGRAM = """
    import json, subprocess, time
    from pathlib import Path
    from teeth_agent.drives.nvme import NvmeDrive
    from teeth_agent.erase.methods.nvme import nvme_erase, recover, under_way
    from teeth_agent.erase.model import Method
    from teeth_agent.errors import DeviceError
    from teeth_agent.passthrough.nvme import open_nvme

    def device(serial):
        for path in Path("/sys/class/nvme").glob("nvme*/serial"):
            if path.read_text().strip() == serial:
                return f"/dev/{path.parent.name}"

    def run(drive, method, found, **parts):
        erase = nvme_erase(method, drive, **parts)
        erase.start()
        seen = [erase.poll()]
        found["meanwhile"] = recover(drive).to_json() if "sanitize" in method.value else None
        try:
            erase.abandon()
        except DeviceError as error:
            found["cannot stop"] = error.code
        while seen[-1].state.value == "running":
            time.sleep(0.2)
            seen.append(erase.poll())
        found["state"] = seen[-1].state.value
        found["evidence"] = dict(seen[-1].evidence)
        found["fractions"] = [poll.fraction for poll in seen if poll.fraction is not None]
        found["estimate"] = erase.estimate
        if found["state"] == "done":
            found["word"] = dict(erase.complete())
        else:
            erase.abandon()
        found["commands"] = erase.commands

    answer = {}
    for serial, methods in (
        ("GOOD", ("nvme_sanitize_crypto", "nvme_sanitize_block", "nvme_sanitize_block",
                  "nvme_sanitize_overwrite", "nvme_format_crypto", "nvme_format_user_data")),
        ("FAILS", ("nvme_sanitize_block",)),
        ("STALE", ("nvme_sanitize_block",)),
    ):
        path = device(serial)
        with open_nvme(path) as port:
            drive = NvmeDrive(port, device=path)
            for name in methods:
                found = answer.setdefault(f"{serial} {name} {len(answer)}", {})
                run(drive, Method(name), found, exit_allowed=True) if "sanitize" in name else run(
                    drive, Method(name), found)
            answer.setdefault("namespaces", {})[serial] = drive.namespaces()
            answer.setdefault("left", {})[serial] = recover(drive).left.value
    words = ["nvme", "sanitize-log", device("GOOD"), "-o", "json"]
    answer["cli"] = subprocess.run(words, capture_output=True, text=True).stdout
    log = subprocess.run(["dmesg"], capture_output=True, text=True).stdout.splitlines()
    answer["kernel"] = [line for line in log if "nvme" in line][-40:]
    print("ANSWER")
    print(json.dumps(answer))
"""


def drives(folder: Path) -> list[dict[str, Any]]:
    namespaces = [
        {"size": "8 MiB"}, {"size": "4 MiB", "sector": 4096}, {"size": "2 MiB", "attached": False}
    ]  # fmt: skip
    entries: list[dict[str, Any]] = [
        {"serial": "GOOD", "namespaces": namespaces},
        {"serial": "FAILS", "faults": ["sanitize-fails:50"]},
        {"serial": "STALE", "lies": ["sanitize-stale-log"]},
    ]
    for number, entry in enumerate(entries):
        file = f"d{number}.img"
        (folder / file).write_bytes(MARK * (SIZE // len(MARK)))
        entry |= {"kind": "nvme", "name": f"d{number}", "size": "16 MiB", "file": file, "erase_seconds": 2}
    return entries


async def test_sanitize_and_format_by_the_kernels_own_way(
    boot: Boot, debug: str, paths: Paths, tmp_path: Path
) -> None:
    spec = parse(
        {"listen": "127.0.0.1:0", "nvme_advertise": HOST_ADDRESS, "drive": drives(tmp_path)},
        tmp_path / "spec.toml",
    )
    async with serve(spec) as serving:
        _, shell = await start_shell(
            boot,
            paths.build / "ramdisk-debug",
            nics=(Nic(mac="52:54:00:00:00:01"),),
            disks=(program(tmp_path, PROGRAM),),
        )
        await shell.run(
            "dmesg -n 1; ip link set lo up; ip link set eth0 up; ip addr add 10.0.2.15/24 dev eth0"
        )
        for served in serving.nvme:
            url = serving.url(served).replace("127.0.0.1", HOST_ADDRESS)
            assert "/dev/nvme" in "".join(await shell.run(f"teeth-attach {url} 2>&1"))
        found = await answer_of(shell)

    runs = {name: run for name, run in found.items() if name.startswith(("GOOD", "FAILS", "STALE"))}
    for name, run in runs.items():
        if name.startswith("GOOD"):
            assert run["state"] == "done", (name, run)
            assert "ses=0" not in "".join(run["commands"])
        if "sanitize" in name and not name.startswith("STALE"):
            assert run["meanwhile"]["left"] == "sanitizing", (name, run)
            assert run["cannot stop"] == "still_running"
            assert 0 <= run["fractions"][0] < 1
            assert run["estimate"] == 2
    assert [bytes.fromhex(run["word"]["sanitize_log"])[4:8].hex() for run in list(runs.values())[:4]] == [
        "0c000000", "0a000000", "1a000000", "1b020000",
    ]  # fmt: skip
    assert found["namespaces"]["GOOD"] == [1, 2, 3]
    failed = next(run for name, run in runs.items() if name.startswith("FAILS"))
    assert (failed["state"], failed["evidence"]["state"]) == ("failed", "failed")
    assert "sanact=1" in failed["commands"][-1]
    stale = next(run for name, run in runs.items() if name.startswith("STALE"))
    assert stale["state"] == "failed"
    assert "another command" in stale["evidence"]["reason"]
    assert "sprog" in found["cli"]
    # The kernel looks at the namespaces again, and takes an erase for no error.
    assert any("rescanning namespaces" in line for line in found["kernel"])
    assert not [line for line in found["kernel"] if "error" in line.lower() or "timeout" in line]
    assert (tmp_path / "d0.img").read_bytes()[:SIZE].count(MARK) == 0
    assert (tmp_path / "d2.img").read_bytes()[:SIZE].count(MARK) == SIZE // len(MARK)
