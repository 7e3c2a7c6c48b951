"""standbye.run_image, whole, up to the point of no return: nothing leaves without a go."""

from __future__ import annotations

import json
import logging
from collections import deque

import pytest

from fakes import diskimages
from fakes.machine_disks import disk_at
from fakes.reporting import ToldReporter
from fakes.wiretap import valid
from teeth_agent.errors import AgentError, Cancelled
from teeth_agent.image import leave
from teeth_agent.tasks.context import PreparedDisk, TaskContext
from teeth_agent.tasks.run_image import run

MIB = 1 << 20
SECRET = "hunter2"
PARAMS = {
    "task_id": "t",
    "image_id": "image-1",
    "config_drive": {"meta_data": {"uuid": "u", "hostname": "landed"}, "user_data": SECRET},
    "boot": "auto",
}
pytestmark = pytest.mark.skipif(not diskimages.can_loop(), reason="needs root and loop devices")


class Home(ToldReporter):
    """An endpoint that answers checkpoints from a list."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = deque(answers)
        self.said = {}

    def checkpoint(self, phase, **fields):
        self.said[phase] = fields
        super().checkpoint(phase)
        return self.answers.popleft()


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    work = tmp_path_factory.mktemp("image")
    return diskimages.make(work / "image.raw", work, size=40 * MIB).read_bytes()


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """kexec and reboot on PATH that keep a diary; a ``fail-WORD`` file makes the act with that word fail."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("kexec", "reboot"):
        script = folder / name
        script.write_text(
            f'#!/bin/sh\necho "{name} $*" >>{tmp_path}/diary\n'
            f'for w in load exec; do case "$*" in *--$w*) [ ! -e {tmp_path}/fail-$w ] || '
            '{ echo "no $w here" >&2; exit 1; };; esac; done\n'
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path


@pytest.fixture
def scene(image, tools):
    """(disk, context): a prepared disk in a machine that could kexec."""
    path = tools / "sda"
    path.write_bytes(image)
    disk = disk_at(path)
    root = diskimages.tree(
        tools / "root",
        {"proc/meminfo": b"MemAvailable: 900000 kB\n", "proc/sys/kernel/kexec_load_disabled": b"0\n"},
    )
    context = TaskContext(boot_id="boot-1", sysfs_root=root)
    context.state.set_prepared(PreparedDisk(image_id="image-1", identity=disk.identity, digest="d"))
    return disk, context


def go(scene, home, left=None, **changes):
    disk, context = scene
    left = [] if left is None else left
    return run({**PARAMS, **changes}, context, home, disks=lambda: [disk], depart=left.append)


def diary(tools):
    path = tools / "diary"
    return path.read_text().splitlines() if path.exists() else []


def test_kexec_is_loaded_announced_and_carried_out(scene, tools, caplog):
    home, left = Home({"go": True}, {}), []
    with caplog.at_level(logging.DEBUG):
        result = go(scene, home, left)
    assert left == ["kexec"]
    assert home.checkpoints == ["prepared", "leaving"]
    prepared = home.said["prepared"]
    assert prepared == valid("standbye.run_image.outcome", result)
    assert prepared["boot"] == "kexec"
    assert prepared["boot_id"] == "boot-1"
    assert prepared["reason"] == "/boot/vmlinuz-6.1 is loaded"
    assert prepared["kernel"]["command_line"] == "root=UUID=1234 ro console=ttyS0,115200 quiet"
    assert prepared["kernel"]["initrds"] == ["/boot/early.img", "/boot/initrd.img-6.1"]
    assert prepared["disk_boot"]["bootable"] is True
    assert len(diary(tools)) == 1
    offset = prepared["config_drive"]["offset"]
    meta = diskimages.run("mtype", "-i", f"{tools / 'sda'}@@{offset}", "::openstack/latest/meta_data.json")
    assert json.loads(meta)["hostname"] == "landed"
    sinks = json.dumps([home.said, home.progress_calls, home.logs, result]) + caplog.text
    assert SECRET not in sinks


def test_not_yet_is_asked_again(scene, tools):
    home, left = Home({"go": False, "retry_after": 0.001}, {"go": True}, {}), []
    go(scene, home, left)
    assert home.checkpoints == ["prepared", "prepared", "leaving"]
    assert left == ["kexec"]


def test_without_a_go_nothing_leaves_and_nothing_stays_loaded(scene, tools):
    for answer in (
        {},
        {"go": False},
        {"go": False, "retry_after": 1e9},
        {"go": "yes"},
        {"refused": "bad_params"},
    ):
        home, left = Home(answer), []
        with pytest.raises(AgentError) as caught:
            go(scene, home, left)
        assert caught.value.code == "not_released"
        assert home.checkpoints == ["prepared"]
        assert left == []
        assert diary(tools)[-1] == "kexec --kexec-file-syscall --unload"


def test_leaving_that_home_does_not_take_is_no_leaving(scene):
    left = []
    with pytest.raises(AgentError) as caught:
        go(scene, Home({"go": True}, {"refused": "unknown"}), left)
    assert caught.value.code == "not_released"
    assert left == []


def test_a_cancelled_task_does_not_leave(scene):
    home, left = Home({"go": True}), []
    home._cancel_after = 1
    with pytest.raises(Cancelled):
        go(scene, home, left)
    assert left == []


def test_a_reboot_that_was_asked_for(scene, tools):
    home, left = Home({"go": True}, {}), []
    go(scene, home, left, boot="reboot")
    assert left == ["reboot"]
    assert home.said["leaving"]["reason"] == "a reboot was asked for"
    assert not any("--load" in line for line in diary(tools))


def test_a_load_that_fails_becomes_a_reboot_with_the_reason(scene, tools):
    (tools / "fail-load").touch()
    home, left = Home({"go": True}, {}), []
    go(scene, home, left)
    assert left == ["reboot"]
    assert home.said["prepared"]["reason"].endswith("no load here")


def test_a_kexec_that_was_asked_for_and_cannot_be_is_an_error(scene):
    _, context = scene
    (context.sysfs_root / "proc/sys/kernel/kexec_load_disabled").write_text("1")
    home = Home()
    with pytest.raises(AgentError) as caught:
        go(scene, home, boot="kexec")
    assert caught.value.code == "kexec_not_viable"
    assert "kexec_load_disabled" in str(caught.value)
    assert home.checkpoints == []


def test_a_disk_that_would_not_start_is_not_rebooted_into(scene, tools):
    with (tools / "sda").open("r+b") as disk:
        disk.write(bytes(440))
    with pytest.raises(AgentError) as caught:
        go(scene, Home(), boot="reboot")
    assert caught.value.code == "not_bootable"
    home, left = Home({"go": True}, {}), []
    go(scene, home, left)
    assert left == ["kexec"]
    assert home.said["prepared"]["disk_boot"]["bootable"] is False


def test_an_image_that_was_not_prepared(scene):
    disk, context = scene
    with pytest.raises(AgentError) as caught:
        go(scene, Home(), image_id="other")
    assert caught.value.code == "not_prepared"
    context.state.clear_zero(disk.identity)
    with pytest.raises(AgentError) as caught:
        go(scene, Home())
    assert caught.value.code == "not_prepared"


def test_a_prepared_disk_that_is_gone(scene):
    _, context = scene
    with pytest.raises(AgentError) as caught:
        run(PARAMS, context, Home(), disks=list, depart=lambda how: None)
    assert caught.value.code == "device_missing"


def test_the_last_act_falls_back_to_a_reboot(tools, monkeypatch):
    monkeypatch.setattr(leave, "_GONE_AFTER", 0)
    (tools / "fail-exec").touch()
    with pytest.raises(AgentError) as caught:
        leave.leave("kexec")
    assert caught.value.code == "still_here"
    assert diary(tools) == ["kexec --exec", "reboot -f"]


def test_the_key_of_this_boot_is_gone_before_the_next_kernel(tools, tmp_path):
    secrets = tmp_path / "keys"
    secrets.mkdir()
    key = secrets / "key.pem"
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----")
    with key.open("rb") as held:
        leave.forget(secrets)
        assert held.read() == bytes(27)
    assert list(secrets.iterdir()) == []
    leave.forget(tmp_path / "none")


def test_each_step_says_how_long_it_took(scene, tools):
    _, context = scene
    (context.sysfs_root / "proc/uptime").write_text("42.50 80.1\n")
    home = Home({"go": True}, {})
    go(scene, home)
    steps = [log["step"] for log in home.logs if log["event"] == "run_image_step"]
    assert steps == ["find_disk", "config_drive", "boot_check", "kexec_load", "release"]
    last = home.logs[-1]
    assert (last["event"], last["boot"], last["uptime"]) == ("run_image_leaving", "kexec", "42.50")
    assert last["seconds"] >= 0
