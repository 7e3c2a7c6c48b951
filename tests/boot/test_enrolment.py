"""Real machines enrol: with any clock, with no other's token, and at no other's endpoint."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from boot.conftest import Boot
from teeth.boot.grants import Grant
from teeth.build.layers import join, pack_paths
from teeth.endpoint.events import NodeConnected, Subscription
from teeth.lab.machine import DirectBoot, Machine
from teeth.lab.network import HOST_ADDRESS, Nic
from teeth.service import Endpoint, EndpointConfig

pytestmark = [pytest.mark.boot, pytest.mark.image]

BOOT = 180.0
MAC = "52:54:00:7e:e7:0a"
ONE, OTHER = (UUID(int=number, version=4) for number in (1, 2))


@pytest_asyncio.fixture
async def endpoint(tmp_path: Path, ramdisk: Path) -> AsyncIterator[Endpoint]:
    config = EndpointConfig(data=tmp_path / "endpoint", advertise=HOST_ADDRESS, ramdisk=ramdisk)
    async with Endpoint(config) as running:
        yield running


def machine(ramdisk: Path, words: str, **changes: Any) -> Machine:
    initrd = changes.pop("initrd", ramdisk / "initramfs")
    boot = DirectBoot(kernel=ramdisk / "vmlinuz", initrd=initrd, cmdline=words)
    facts: dict[str, Any] = {"name": "one", "uuid": ONE, "nics": (Nic(mac=MAC),)}
    return Machine(boot=boot, **(facts | changes))


async def connected(events: Subscription) -> NodeConnected:
    async for event in events:
        if isinstance(event, NodeConnected):
            return event
    raise AssertionError("the endpoint ended")


def ageless(ramdisk: Path, folder: Path) -> Path:
    """The same ramdisk, but it does not know when it was made: nothing lifts its clock out of 1970."""
    about = json.loads((ramdisk / "manifest.json").read_text())
    file = folder / "tree/etc/teeth/agent.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"ramdisk": about["key"], "built": 0, "version": about["version"]}))
    pack_paths(folder / "tree", ["etc/teeth/agent.json"], folder / "layer", level=3, epoch=0)
    join([("whole", ramdisk / "initramfs"), ("layer", folder / "layer")], folder / "initramfs")
    return folder / "initramfs"


CLOCKS = {
    "1970": (dt.datetime(1970, 1, 1), False, False),
    "1970-no-floor": (dt.datetime(1970, 1, 1), True, True),
    "2099": (dt.datetime(2099, 6, 1), False, True),
}


@pytest.mark.parametrize(("rtc", "no_floor", "asks"), CLOCKS.values(), ids=CLOCKS.keys())
async def test_a_machine_with_a_wrong_clock_enrols(
    boot: Boot,
    endpoint: Endpoint,
    ramdisk: Path,
    tmp_path: Path,
    rtc: dt.datetime,
    no_floor: bool,
    asks: bool,
) -> None:
    words = endpoint.kernel_command_line(await endpoint.grant(MAC))
    initrd = ageless(ramdisk, tmp_path) if no_floor else ramdisk / "initramfs"
    with endpoint.subscribe() as events:
        running = await boot(machine(ramdisk, words, rtc=rtc, initrd=initrd))
        await running.wait_for("teeth: connected to ", within=BOOT)
        node = await connected(events)
    assert node.node_id == str(ONE)
    status = await endpoint.call(node.node_id, "status")
    lines = [line.text for line in running.console.lines]
    stepped = [line for line in lines if "teeth: the clock stood at " in line]
    if asks:
        (line,) = stepped
        # Not the very year: QEMU's battery-backed clock wraps decades ahead.
        year = int(line.partition("the clock stood at ")[2][:4])
        assert (year == 1970) if rtc.year == 1970 else (year > 2050)
        assert status["clock"]["stepped"] is True
        now = dt.datetime.now(dt.UTC).timestamp()
        assert abs(status["time"] - now) < 3600
    # Else the ramdisk's own age was near enough, or the same way was taken; either way it is at home.
    assert [line for line in lines if "teeth: problem" in line] == []
    assert status["network"][0]["mac"] == MAC
    assert status["network"][0]["address"].startswith("10.0.2.")
    assert (status["sessions"], status["problems"]) == (1, [])


async def problems(running: Any, code: str) -> list[str]:
    await running.wait_for(f"teeth: problem {code}: ", within=BOOT)
    return [line.text for line in running.console.lines if "teeth: problem" in line.text]


async def first_of(boot: Boot, endpoint: Endpoint, ramdisk: Path) -> Grant:
    """A machine that has enrolled with a grant's token, and is gone."""
    grant = await endpoint.grant(MAC)
    running = await boot(machine(ramdisk, endpoint.kernel_command_line(grant)))
    await running.wait_for("teeth: connected to ", within=BOOT)
    await running.crash()
    return grant


async def test_a_token_that_was_used_opens_nothing_for_a_second_machine(
    boot: Boot, endpoint: Endpoint, ramdisk: Path
) -> None:
    grant = await first_of(boot, endpoint, ramdisk)
    words = endpoint.kernel_command_line(grant)
    thief = await boot(machine(ramdisk, words, name="thief", uuid=OTHER))
    (line,) = await problems(thief, "token_burnt")
    assert "somebody else has the token" in line
    assert grant.token not in "\n".join(
        line.text for line in thief.console.lines if "ommand line" not in line.text
    )
    assert endpoint.connected() == []
    assert await endpoint.node(str(OTHER)) is None


async def test_a_token_of_another_machines_address_opens_nothing(
    boot: Boot, endpoint: Endpoint, ramdisk: Path
) -> None:
    words = endpoint.kernel_command_line(await endpoint.grant("52:54:00:00:00:99"))
    running = await boot(machine(ramdisk, words))
    (line,) = await problems(running, "token_other_node")
    assert "give this machine a boot grant of its own" in line


async def test_a_foreign_endpoint_is_shown_and_told_nothing(
    boot: Boot, endpoint: Endpoint, ramdisk: Path
) -> None:
    words = endpoint.kernel_command_line(await endpoint.grant(MAC))
    running = await boot(machine(ramdisk, words.replace(endpoint.ca_digest, "sha256:" + "0" * 64)))
    (line,) = await problems(running, "wrong_ca")
    assert "shows another certificate authority" in line
    assert await endpoint.nodes() == []
