"""Bringing the network up against a made-up kernel, and once against the real one."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from teeth_agent.netlink import DhcpLease, Link
from teeth_agent.network.bring_up import Network, Waits, network
from teeth_agent.network.choose import candidates

BOOT = "52:54:00:00:00:01"
OTHER = "52:54:00:00:00:02"
# Nothing here waits for a real clock: what must not happen is an hour away, what must is due at once.
WAITS = Waits(poll=0.0, complain_after=0.0, complain_every=0.0, boot_nic=3600.0, dhcp=1.0, retry=0.0)


def link(index: int, mac: str = BOOT, *, up: bool = True, carrier: bool = True, kind: str = "") -> Link:
    return Link(index=index, name=f"eth{index}", mac=mac, up=up, carrier=carrier, kind=kind, mtu=1500)


def lease(interface: str, **change: Any) -> DhcpLease:
    record = DhcpLease(
        interface=interface, address="192.0.2.5", prefix_length=24, gateway="192.0.2.1",
        name_servers=("192.0.2.1", "192.0.2.2"), server="192.0.2.1",
    )  # fmt: skip
    return dataclasses.replace(record, **change)


class FakeKernel:
    """``steps``: what links() gives, one after the other; the last again and again."""

    def __init__(self, *steps: list[Link]) -> None:
        self.steps = list(steps)
        self.raised: list[int] = []
        self.configured: list[tuple[int, DhcpLease]] = []
        self.asked: list[str] = []
        self.held: list[str] = []
        self.answers: dict[str, list[Exception | DhcpLease]] = {}
        self.refuses_up: dict[int, int] = {}  # index -> how many times
        self.refuses_address = 0

    async def links(self) -> list[Link]:
        now = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        return [dataclasses.replace(x, up=True) if x.index in self.raised else x for x in now]

    async def set_up(self, index: int) -> None:
        if self.refuses_up.get(index, 0):
            self.refuses_up[index] -= 1
            raise OSError(11, "firmware is not there yet")
        self.raised.append(index)

    async def configure(self, index: int, record: DhcpLease) -> None:
        if self.refuses_address:
            self.refuses_address -= 1
            raise OSError(19, "No such device")
        self.configured.append((index, record))

    @contextlib.asynccontextmanager
    async def dhcp(self, interface: str, wait: float) -> AsyncIterator[DhcpLease]:
        self.asked.append(interface)
        script = self.answers.get(interface, [])
        answer = (script.pop(0) if len(script) > 1 else script[0]) if script else lease(interface)
        if isinstance(answer, Exception):
            raise answer
        self.held.append(interface)
        try:
            yield answer
        finally:
            self.held.remove(interface)


class Problems:
    """Collects problems; ``until`` ends the attempt when one has come ``count`` times."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        self.news = asyncio.Condition()
        self._waiting: list[tuple[str, int, asyncio.Event]] = []

    def __call__(self, code: str, message: str) -> None:
        self.said.append((code, message))
        for wanted, count, event in self._waiting:
            if [c for c, _ in self.said].count(wanted) >= count:
                event.set()

    async def until(self, code: str, count: int = 1) -> str:
        event = asyncio.Event()
        self._waiting.append((code, count, event))
        async with asyncio.timeout(30):
            await event.wait()
        return next(message for c, message in self.said if c == code)


async def bring_up(
    kernel: FakeKernel, root: Path, boot_mac: str = "", waits: Waits = WAITS
) -> tuple[Network, Problems]:
    problems = Problems()
    async with (
        asyncio.timeout(30),
        network(boot_mac, problems, kernel=kernel, root=root, waits=waits) as found,
    ):
        assert kernel.held == [found.link.name]
        assert kernel.configured[-1] == (found.link.index, found.lease)
    assert kernel.held == []
    return found, problems


async def test_one_interface(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    kernel = FakeKernel([link(2, up=False)])
    found, problems = await bring_up(kernel, tmp_path)
    assert (found.link.name, found.lease.address) == ("eth2", "192.0.2.5")
    assert kernel.raised == [2]
    assert problems.said == []
    assert (tmp_path / "etc/resolv.conf").read_text() == "nameserver 192.0.2.1\nnameserver 192.0.2.2\n"


async def test_a_resolver_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    found, problems = await bring_up(FakeKernel([link(2)]), tmp_path / "nowhere")
    assert (found.link.index, problems.said) == (2, [])


async def until_problem(kernel: FakeKernel, root: Path, code: str, count: int = 1, boot_mac: str = "") -> str:
    problems = Problems()

    async def forever() -> None:
        async with network(boot_mac, problems, kernel=kernel, root=root, waits=WAITS):
            raise AssertionError("there is no network here")

    job = asyncio.create_task(forever())
    try:
        return await problems.until(code, count)
    finally:
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)


async def test_no_interface_is_said_and_said_again(tmp_path: Path) -> None:
    said = await until_problem(FakeKernel([]), tmp_path, "no_nic", 3)
    assert said == "no network interface has appeared: is its driver in this ramdisk?"


async def test_no_link_names_every_port(tmp_path: Path) -> None:
    kernel = FakeKernel([link(2, carrier=False), link(3, OTHER, carrier=False)])
    said = await until_problem(kernel, tmp_path, "no_link")
    assert said == (f"no interface has a link: check the cable or switch port of eth2 {BOOT}, eth3 {OTHER}")


async def test_no_dhcp_is_tried_for_ever(tmp_path: Path) -> None:
    kernel = FakeKernel([link(2)])
    kernel.answers["eth2"] = [TimeoutError("no DHCP server answered on eth2 within 20 s")]
    said = await until_problem(kernel, tmp_path, "no_dhcp", 3)
    assert said == "no DHCP server answered on eth2 within 20 s"
    assert kernel.asked[:3] == ["eth2"] * 3


async def test_the_second_interface_is_tried_when_the_first_has_no_dhcp(tmp_path: Path) -> None:
    kernel = FakeKernel([link(2), link(3, OTHER)])
    kernel.answers["eth2"] = [TimeoutError("no DHCP server answered on eth2 within 20 s")]
    found, problems = await bring_up(kernel, tmp_path)
    assert (found.link.name, kernel.asked) == ("eth3", ["eth2", "eth3"])
    assert [code for code, _ in problems.said] == ["no_dhcp"]


async def test_the_second_interface_is_tried_at_once_although_the_first_is_the_boot_interface(
    tmp_path: Path,
) -> None:
    kernel = FakeKernel([link(2), link(3, OTHER)])
    kernel.answers["eth2"] = [TimeoutError("no DHCP")]
    found, _ = await bring_up(kernel, tmp_path, boot_mac=BOOT)
    assert (found.link.name, kernel.asked) == ("eth3", ["eth2", "eth3"])


async def test_a_broken_interface_does_not_keep_the_others_waiting(tmp_path: Path) -> None:
    kernel = FakeKernel([link(2), link(3, OTHER)])
    kernel.answers["eth2"] = [OSError(100, "Network is down")]
    found, problems = await bring_up(kernel, tmp_path)
    assert found.link.name == "eth3"
    assert problems.said == [("no_dhcp", "eth2: [Errno 100] Network is down")]


async def test_all_are_tried_again_after_all_failed(tmp_path: Path) -> None:
    kernel = FakeKernel([link(2), link(3, OTHER)])
    kernel.answers["eth2"] = [TimeoutError("no DHCP"), lease("eth2")]
    kernel.answers["eth3"] = [TimeoutError("no DHCP")]
    found, _ = await bring_up(kernel, tmp_path)
    assert (found.link.name, kernel.asked) == ("eth2", ["eth2", "eth3", "eth2"])


async def test_an_interface_that_goes_while_it_gets_its_address(tmp_path: Path) -> None:
    kernel = FakeKernel([link(2)])
    kernel.refuses_address = 1
    found, problems = await bring_up(kernel, tmp_path)
    assert (found.link.name, kernel.asked) == ("eth2", ["eth2", "eth2"])
    assert problems.said == [("no_dhcp", "eth2: [Errno 19] No such device")]


async def test_the_boot_interface_is_preferred(tmp_path: Path) -> None:
    kernel = FakeKernel([link(2, OTHER), link(3, BOOT)])
    found, _ = await bring_up(kernel, tmp_path, boot_mac=BOOT)
    assert (found.link.name, kernel.asked) == ("eth3", ["eth3"])


async def test_the_boot_interface_is_waited_for_while_its_link_comes(tmp_path: Path) -> None:
    down = [link(2, OTHER), link(3, BOOT, up=False, carrier=False)]
    kernel = FakeKernel(down, down, down, [link(2, OTHER), link(3, BOOT)])
    found, problems = await bring_up(kernel, tmp_path, boot_mac=BOOT)
    assert (found.link.name, kernel.asked, kernel.raised) == ("eth3", ["eth3"], [3])
    assert problems.said == []


async def test_the_boot_interface_is_waited_for_while_its_driver_loads(tmp_path: Path) -> None:
    kernel = FakeKernel([], [link(2, OTHER)], [link(2, OTHER)], [link(2, OTHER), link(3, BOOT)])
    found, _ = await bring_up(kernel, tmp_path, boot_mac=BOOT)
    assert (found.link.name, kernel.asked) == ("eth3", ["eth3"])


@pytest.mark.parametrize("boot", [[], [link(3, BOOT, carrier=False)]], ids=["no driver", "no link"])
async def test_the_wait_for_the_boot_interface_ends(tmp_path: Path, boot: list[Link]) -> None:
    kernel = FakeKernel([link(2, OTHER), *boot])
    waits = dataclasses.replace(WAITS, boot_nic=0.0)
    found, _ = await bring_up(kernel, tmp_path, boot_mac=BOOT, waits=waits)
    assert found.link.name == "eth2"


BMC = "02:00:00:00:00:01"  # locally administered: a management controller's USB interface


async def test_a_management_controllers_interface_is_not_taken_while_a_real_one_may_come(
    tmp_path: Path,
) -> None:
    early = [link(2, BMC)]
    kernel = FakeKernel(early, early, [link(2, BMC), link(3, carrier=False)], [link(2, BMC), link(3)])
    found, _ = await bring_up(kernel, tmp_path)
    assert (found.link.name, kernel.asked) == ("eth3", ["eth3"])


async def test_a_real_interface_without_dhcp_does_not_lead_to_the_management_controller(
    tmp_path: Path,
) -> None:
    kernel = FakeKernel([link(2, BMC), link(3)])
    kernel.answers["eth3"] = [TimeoutError("the port forwards nothing yet")] * 2 + [lease("eth3")]
    found, _ = await bring_up(kernel, tmp_path)
    assert (found.link.name, kernel.asked) == ("eth3", ["eth3"] * 3)


async def test_the_only_interface_is_taken_whatever_its_address(tmp_path: Path) -> None:
    found, _ = await bring_up(
        FakeKernel([link(2, BMC)]), tmp_path, waits=dataclasses.replace(WAITS, boot_nic=0.0)
    )
    assert found.link.name == "eth2"
    found, _ = await bring_up(FakeKernel([link(2, BMC)]), tmp_path, boot_mac=BMC)
    assert found.link.name == "eth2"


async def test_an_interface_that_appears_late(tmp_path: Path) -> None:
    kernel = FakeKernel([], [], [link(2, up=False, carrier=False)], [link(2, carrier=False)], [link(2)])
    found, problems = await bring_up(kernel, tmp_path)
    assert found.link.name == "eth2"
    assert [code for code, _ in problems.said] == ["no_nic", "no_nic", "no_link", "no_link"]


async def test_an_interface_that_does_not_come_up_at_first_is_asked_again(tmp_path: Path) -> None:
    down = [link(2, up=False, carrier=False)]
    kernel = FakeKernel(down, down, down, down, [link(2)])
    kernel.refuses_up = {2: 2}
    await bring_up(kernel, tmp_path)
    assert kernel.raised == [2]


def test_candidates() -> None:
    bmc = BMC
    links = [link(2, bmc), link(3, OTHER), link(4, "", carrier=True), link(5, kind="bridge"), link(6, BOOT)]
    assert [x.index for x in candidates(links, "")] == [3, 6, 2]
    assert [x.index for x in candidates(links, BOOT)] == [6, 3, 2]
    assert [x.index for x in candidates(links, bmc)] == [2, 3, 6]


# --- the real kernel, in a network namespace of its own


def _missing() -> str:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root: network namespaces"
    tools = [tool for tool in ("ip", "dnsmasq") if shutil.which(tool) is None]
    return f"needs {' and '.join(tools)} (packages iproute2, dnsmasq-base)" if tools else ""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Callable[[str], subprocess.CompletedProcess[str]]]:
    """Two namespaces joined by a veth pair, a DHCP server in the far one; gives a way to run Python in the
    near one."""
    if reason := _missing():
        pytest.skip(reason)
    near, far = f"teeth-a-{os.getpid()}", f"teeth-b-{os.getpid()}"
    with contextlib.ExitStack() as stack:
        for name in (near, far):
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"needs network namespaces: {error.stderr.strip()}")
            stack.callback(ip, "netns", "delete", name)
        ip("-n", near, "link", "add", "eth7", "type", "veth", "peer", "name", "far", "netns", far)
        for words in (
            "address add 192.0.2.1/24 dev far", "link set far up", "link set lo up",
        ):  # fmt: skip
            ip("-n", far, *words.split())
        server = subprocess.Popen(
            [
                "ip", "netns", "exec", far, "dnsmasq", "--keep-in-foreground",
                "--conf-file=/dev/null", "--port=0", "--interface=far", "--bind-interfaces",
                "--dhcp-range=192.0.2.50,192.0.2.59,255.255.255.0,1h",
                "--dhcp-option=3,192.0.2.1", "--dhcp-option=6,192.0.2.1,192.0.2.9", "--no-ping",
                f"--dhcp-leasefile={tmp_path}/leases", f"--pid-file={tmp_path}/pid", "--user=root",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(server.wait)
        stack.callback(server.terminate)

        def python(code: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["ip", "netns", "exec", near, sys.executable, "-c", code],
                check=False, capture_output=True, text=True, timeout=60,
            )  # fmt: skip

        yield python


def test_a_lease_from_a_real_server(namespace: Callable[[str], subprocess.CompletedProcess[str]]) -> None:
    """The veth pair stands for hardware: only its kind is hidden from the choice."""
    done = namespace(
        "import asyncio, dataclasses, json, pathlib, tempfile, types\n"
        "from teeth_agent import netlink\n"
        "from teeth_agent.network.bring_up import network\n"
        "async def links():\n"
        "    return [dataclasses.replace(x, kind='') for x in await netlink.links()]\n"
        "kernel = types.SimpleNamespace(links=links, set_up=netlink.set_up, configure=netlink.configure,\n"
        "    dhcp=netlink.dhcp)\n"
        "async def main():\n"
        "    before = await netlink.links()\n"
        "    root = pathlib.Path(tempfile.mkdtemp())\n"
        "    (root / 'etc').mkdir()\n"
        "    async with network('', print, kernel=kernel, root=root) as net:\n"
        "        after = await netlink.links()\n"
        "        resolver = (root / 'etc/resolv.conf').read_text()\n"
        "    print(json.dumps([dataclasses.asdict(before[0]), dataclasses.asdict(after[0]),\n"
        "        dataclasses.asdict(net.lease), resolver]))\n"
        "asyncio.run(main())\n"
    )
    assert done.returncode == 0, done.stderr
    before, after, record, resolver = json.loads(done.stdout.splitlines()[-1])
    assert (before["name"], before["kind"], before["up"], before["carrier"]) == ("eth7", "veth", False, False)
    assert (after["up"], after["carrier"]) == (True, True)
    assert record["address"].startswith("192.0.2.5")
    assert record["prefix_length"] == 24
    assert (record["gateway"], record["server"]) == ("192.0.2.1", "192.0.2.1")
    assert record["name_servers"] == ["192.0.2.1", "192.0.2.9"]
    assert resolver == "nameserver 192.0.2.1\nnameserver 192.0.2.9\n"
    assert done.stderr == ""


def test_what_the_real_kernel_refuses_is_an_os_error(
    namespace: Callable[[str], subprocess.CompletedProcess[str]],
) -> None:
    done = namespace(
        "import asyncio\n"
        "from teeth_agent import netlink\n"
        "from teeth_agent.netlink import DhcpLease\n"
        "lease = DhcpLease(interface='x', address='192.0.2.9', prefix_length=24, gateway=None,\n"
        "    name_servers=(), server=None)\n"
        "async def no_interface():\n"
        "    async with netlink.dhcp('nothere', 1): pass\n"
        "async def link_down():\n"
        "    async with netlink.dhcp('eth7', 0.1): pass\n"
        "async def main():\n"
        "    attempts = netlink.set_up(999), netlink.configure(999, lease), no_interface(), link_down()\n"
        "    for attempt in attempts:\n"
        "        try:\n"
        "            await attempt\n"
        "        except OSError as error:\n"
        "            print(type(error).__name__, error)\n"
        "asyncio.run(main())\n"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stdout + done.stderr
    assert "No such device" in lines[0]
    assert "No such device" in lines[1]
    assert lines[3].startswith(("TimeoutError no DHCP server answered on eth7 within 0.1 s", "OSError"))
    assert "Traceback" not in done.stderr
