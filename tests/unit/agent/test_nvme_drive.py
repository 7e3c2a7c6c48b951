"""The agent's NVMe drive: commands by the letter, readers that take any bytes, refusals in words."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teeth_agent.drives.nvme import (
    NvmeCommand,
    NvmeDrive,
    attachment_command,
    failure,
    format_command,
    sanitize_command,
)
from teeth_agent.drives.nvmedata import (
    Action,
    Namespace,
    Sanitizing,
    SecureErase,
    parse_controller,
    parse_firmware_log,
    parse_list,
    parse_namespace,
    parse_sanitize_log,
)
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.nvme import NvmeReply


class Canned:
    """A port whose answers come from a function of the command."""

    def __init__(self, answer: Callable[[dict[str, Any]], NvmeReply]) -> None:
        self.answer = answer
        self.sent: list[dict[str, Any]] = []

    def admin(self, opcode: int, **rest: Any) -> NvmeReply:
        command = {"opcode": opcode, "nsid": 0, "cdw10": 0, "cdw11": 0, "send": b"", "receive": 0} | rest
        self.sent.append(command)
        return self.answer(command)


def good(data: bytes = b"") -> NvmeReply:
    return NvmeReply(status=0, result=0, data=data)


def field(offset: int, value: int, size: int, *, into: bytearray) -> None:
    into[offset : offset + size] = value.to_bytes(size, "little")


def controller_data(**words: int) -> bytes:
    data = bytearray(4096)
    data[4:24] = b"S1               \0\0\0"
    data[24:64] = b"SAMSUNG MZQL2960HCJR-00A07".ljust(40)
    data[64:72] = b"GDC5602Q"
    places = {"cmic": (76, 1), "cntlid": (78, 2), "oacs": (256, 2), "frmw": (260, 1), "tnvmcap": (280, 16),
              "unvmcap": (296, 16), "sanicap": (328, 4), "nn": (516, 4), "oncs": (520, 2), "fna": (524, 1),
              "mnan": (540, 4)}  # fmt: skip
    for name, value in words.items():
        field(*places[name][:1], value, places[name][1], into=data)
    data[768:800] = b"nqn.2014-08.org.nvmexpress:one".ljust(32, b"\0")
    return bytes(data)


def namespace_data(
    *, flbas: int = 0, dps: int = 0, formats: tuple[int, ...] = (9 << 16,), **words: int
) -> bytes:
    data = bytearray(4096)
    field(0, words.get("blocks", 4096), 8, into=data)
    data[25], data[26], data[29] = len(formats) - 1, flbas, dps
    data[30], data[32], data[99] = words.get("nmic", 0), words.get("fpi", 0), words.get("nsattr", 0)
    data[104:120] = bytes.fromhex("0123456789abcdef0123456789abcdef")
    for index, entry in enumerate(formats):
        field(128 + 4 * index, entry, 4, into=data)
    return bytes(data)


def namespace(**parts: Any) -> Namespace:
    return parse_namespace(1, namespace_data(**parts))


def list_data(*ids: int) -> bytes:
    return b"".join(nsid.to_bytes(4, "little") for nsid in ids).ljust(4096, b"\0")


# --- what a drive is


def test_a_controller() -> None:
    found = parse_controller(
        controller_data(cmic=2, cntlid=0x41, oacs=0x5F, frmw=0x17, tnvmcap=960197124096, unvmcap=1 << 70,
                        sanicap=0xA0000003, nn=32, fna=0x04, mnan=128)
    )  # fmt: skip
    assert (found.serial, found.model, found.firmware) == ("S1", "SAMSUNG MZQL2960HCJR-00A07", "GDC5602Q")
    assert found.subnqn == "nqn.2014-08.org.nvmexpress:one"
    assert (found.cntlid, found.nn, found.mnan) == (0x41, 32, 128)
    assert (found.tnvmcap, found.unvmcap) == (960197124096, 1 << 70)
    assert found.can_format
    assert found.can_crypto_format
    assert found.manages_namespaces
    assert not found.erases_all_at_once
    assert found.shared
    assert found.actions == {Action.CRYPTO, Action.BLOCK}
    assert found.inhibits_no_deallocate
    assert found.no_deallocate_modifies_media == 2


@pytest.mark.parametrize(
    ("words", "attribute", "value"),
    [
        ({"fna": 0x04}, "can_crypto_format", False),  # no format at all
        ({"oacs": 0x02, "fna": 0x01}, "erases_all_at_once", False),
        ({"oacs": 0x02, "fna": 0x02}, "erases_all_at_once", True),
        ({"oacs": 0x02, "fna": 0x0D}, "erases_all_at_once", False),
        ({"sanicap": 0x4}, "actions", frozenset({Action.OVERWRITE})),
        ({"sanicap": 0}, "actions", frozenset()),
        ({"cmic": 0x8}, "shared", False),
    ],
)
def test_what_a_controller_can_do(words: dict[str, int], attribute: str, value: object) -> None:
    assert getattr(parse_controller(controller_data(**words)), attribute) == value


def test_a_namespace() -> None:
    found = namespace(flbas=0x11, dps=0x0A, formats=(9 << 16, 12 << 16 | 8), nmic=1, nsattr=1, fpi=0x80 | 40)
    assert (found.blocks, found.block_size, found.metadata_size, found.size) == (4096, 4096, 8, 16 << 20)
    assert (found.lbaf, found.metadata_inline, found.protection, found.protection_first) == (1, True, 2, True)
    assert found.shared
    assert found.write_protected
    assert found.remaining == 40
    assert found.nguid == "0123456789abcdef0123456789abcdef"
    assert found.eui64 == ""
    assert namespace(fpi=0x28).remaining is None
    assert namespace(fpi=0x80).remaining == 0


def test_formats_beyond_the_sixteenth() -> None:
    formats = tuple((9 if index != 18 else 12) << 16 for index in range(20))
    assert namespace(flbas=0x22, formats=formats).lbaf == 18
    assert namespace(flbas=0x22, formats=formats).block_size == 4096
    # With sixteen or fewer the upper bits mean nothing.
    assert namespace(flbas=0x22, formats=formats[:16]).lbaf == 2


@pytest.mark.parametrize(
    "parts", [{"flbas": 3}, {"formats": (8 << 16,)}, {"formats": (0,)}, {"formats": (64 << 16,)}]
)
def test_a_namespace_of_an_impossible_format(parts: dict[str, Any]) -> None:
    with pytest.raises(DeviceError) as caught:
        namespace(**parts)
    assert caught.value.code == "bad_answer"


def test_the_sanitize_log() -> None:
    found = parse_sanitize_log(bytes.fromhex(
        "0040 1201 1b020000 80510100 ffffffff 02000000 ffffffff 0a000000 00000000".replace(" ", "")
    ))  # fmt: skip
    assert found.fraction == 0.25
    assert found.state is Sanitizing.RUNNING
    assert found.passes == 2
    assert found.global_data_erased
    assert (found.cdw10, found.action, found.exit_allowed) == (0x21B, Action.OVERWRITE, True)
    # What is told is the time of sixteen passes.
    assert found.estimate(Action.OVERWRITE) == 5400
    assert found.estimate(Action.OVERWRITE, passes=16) == 86400
    assert found.estimate(Action.BLOCK) is None
    assert found.estimate(Action.BLOCK, no_deallocate=True) == 10
    assert found.estimate(Action.CRYPTO) == 2
    # A drive that does not tell this one apart.
    assert found.estimate(Action.CRYPTO, no_deallocate=True) == 2
    assert found.estimate(Action.EXIT_FAILURE) is None


@pytest.mark.parametrize(
    ("value", "state", "complete"),
    [
        (0, Sanitizing.NEVER, False),
        (1, Sanitizing.DONE, True),
        (2, Sanitizing.RUNNING, False),
        (3, Sanitizing.FAILED, False),
        (4, Sanitizing.DONE_FORCED_DEALLOCATE, True),
        (5, None, False),
        (7, None, False),
    ],
)
def test_states_of_the_sanitize_log(value: int, state: Sanitizing | None, complete: bool) -> None:
    found = parse_sanitize_log(bytes((0xFF, 0xFF, value, 0)).ljust(32, b"\0"))
    assert found.state is state
    assert found.complete is complete


def test_the_firmware_log() -> None:
    data = bytearray(512)
    data[0] = 0x21
    data[8:24] = b"1.00    2.00    "
    found = parse_firmware_log(bytes(data))
    assert (found.active, found.next) == (1, 2)
    assert found.revisions == ("1.00", "2.00", "", "", "", "", "")


@pytest.mark.parametrize("ids", [(2, 1), (1, 1), (0xFFFFFFFF,)])
def test_lists_that_are_none(ids: tuple[int, ...]) -> None:
    with pytest.raises(DeviceError) as caught:
        parse_list(list_data(*ids))
    assert caught.value.code == "bad_answer"


# --- commands by the letter


@pytest.mark.parametrize(
    ("command", "cdw10", "cdw11", "words"),
    [
        (sanitize_command(Action.BLOCK), 0x002, 0, "nvme sanitize /dev/nvme0 --sanact=2"),
        (
            sanitize_command(Action.CRYPTO, exit_allowed=True), 0x00C, 0,
            "nvme sanitize /dev/nvme0 --sanact=4 --ause",
        ),
        (
            sanitize_command(Action.OVERWRITE, pattern=0xA5), 0x013, 0xA5,
            "nvme sanitize /dev/nvme0 --sanact=3 --owpass=1 --ovrpat=0xa5",
        ),
        (
            sanitize_command(Action.OVERWRITE, passes=16, no_deallocate=True), 0x203, 0,
            "nvme sanitize /dev/nvme0 --sanact=3 --no-dealloc --owpass=0 --ovrpat=0x0",
        ),
        (
            sanitize_command(Action.BLOCK, mark=1), 0x012, 0,
            "nvme sanitize /dev/nvme0 --sanact=2 --owpass=1",
        ),
        (
            sanitize_command(Action.EXIT_FAILURE, exit_allowed=True), 0x001, 0,
            "nvme sanitize /dev/nvme0 --sanact=1",
        ),
    ],
)  # fmt: skip
def test_sanitize_by_the_letter(command: NvmeCommand, cdw10: int, cdw11: int, words: str) -> None:
    assert (command.opcode, command.nsid, command.cdw10, command.cdw11) == (0x84, 0, cdw10, cdw11)
    assert command.equivalent == words
    assert str(command) == f"admin 84h nsid=0h cdw10={cdw10:08x}h cdw11={cdw11:08x}h: {words}"


@pytest.mark.parametrize("parts", [{"passes": 0}, {"passes": 17}, {"pattern": -1}, {"pattern": 1 << 32}])
def test_sanitizes_that_cannot_be_asked_for(parts: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="cannot be asked for"):
        sanitize_command(Action.OVERWRITE, **parts)


def test_a_format_keeps_what_the_namespace_is() -> None:
    formats = (*(9 << 16 for _ in range(20)), 12 << 16 | 8)
    found = namespace(flbas=0x34, dps=0x0B, formats=formats)
    command = format_command(found, SecureErase.CRYPTO)
    assert (command.opcode, command.nsid) == (0x80, 1)
    # LBAFL 4, MSET, PI 3, PIL, SES 2, LBAFU 1.
    assert command.cdw10 == 4 | 1 << 4 | 3 << 5 | 1 << 8 | 2 << 9 | 1 << 12
    assert command.equivalent == (
        "nvme format /dev/nvme0 --namespace-id=0x1 --ses=2 --lbaf=20 --ms=1 --pi=3 --pil=1 --force"
    )


@given(
    flbas=st.integers(0, 255),
    dps=st.integers(0, 255),
    count=st.integers(1, 64),
    ses=st.integers(-8, 16),
    nsid=st.none() | st.integers(1, 0xFFFFFFFF),
)
def test_no_format_without_erasing(flbas: int, dps: int, count: int, ses: int, nsid: int | None) -> None:
    try:
        found = namespace(flbas=flbas, dps=dps, formats=(12 << 16,) * count)
    except DeviceError:
        return
    if ses not in (1, 2):
        with pytest.raises(ValueError, match=str(ses)):
            format_command(found, ses, nsid=nsid)  # type: ignore[arg-type]
        return
    assert format_command(found, SecureErase(ses), nsid=nsid).cdw10 >> 9 & 7 == ses


def test_attachment_by_the_letter() -> None:
    command = attachment_command(3, 0x41, attach=True)
    assert (command.opcode, command.nsid, command.cdw10) == (0x15, 3, 0)
    assert command.send == bytes((1, 0, 0x41, 0)).ljust(4096, b"\0")
    assert command.equivalent == "nvme attach-ns /dev/nvme0 --namespace-id=0x3 --controllers=0x41"
    assert attachment_command(3, 0, attach=False).cdw10 == 1


# --- asking


def test_questions_are_asked_as_the_standard_says() -> None:
    port = Canned(lambda command: good(controller_data() if command["cdw10"] == 1 else list_data(1, 5)))
    drive = NvmeDrive(port, device="/dev/nvme3")
    assert drive.identify().serial == "S1"
    assert drive.namespaces() == (1, 5)
    assert drive.namespaces(allocated=True) == (1, 5)
    assert [(c["opcode"], c["nsid"], c["cdw10"], c["receive"]) for c in port.sent] == [
        (6, 0, 0x01, 4096), (6, 0, 0x02, 4096), (6, 0, 0x10, 4096),
    ]  # fmt: skip


def test_logs_are_asked_as_the_standard_says() -> None:
    port = Canned(lambda command: good(bytes(512)))
    assert NvmeDrive(port).sanitize_log().state is Sanitizing.NEVER
    assert NvmeDrive(port).firmware_log().active == 0
    assert [(c["opcode"], c["nsid"], c["cdw10"], c["receive"]) for c in port.sent] == [
        (2, 0xFFFFFFFF, 0x7F0081, 512), (2, 0xFFFFFFFF, 0x7F0003, 512),
    ]  # fmt: skip


def test_a_long_list_is_asked_for_in_parts() -> None:
    every = list(range(1, 2000))

    def answer(command: dict[str, Any]) -> NvmeReply:
        return good(list_data(*[nsid for nsid in every if nsid > command["nsid"]][:1024]))

    assert NvmeDrive(Canned(answer)).namespaces() == tuple(every)


def test_a_list_without_end_ends() -> None:
    def onward(command: dict[str, Any]) -> NvmeReply:
        return good(list_data(*range(command["nsid"] + 1, command["nsid"] + 1025)))

    for answer in (onward, lambda command: good(list_data(*range(1, 1025)))):
        with pytest.raises(DeviceError) as caught:
            NvmeDrive(Canned(answer)).namespaces()
        assert caught.value.code == "bad_answer"


def test_a_namespace_that_is_not_there() -> None:
    with pytest.raises(DeviceError) as caught:
        NvmeDrive(Canned(lambda command: good(bytes(4096)))).identify_namespace(9)
    assert caught.value.code == "no_namespace"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (0x002, "refused", "a field of the command is invalid"),
        (0x01C, "sanitize_failed", "only another sanitize"),
        (0x01D, "sanitize_running", "a sanitize is under way"),
        (0x084, "format_running", "a format is under way"),
        (0x020, "read_only", "write protected"),
        (0x10B, "refused", "firmware"),
        (0x6AB, "refused", "no reason known (status type 6, code abh)"),
    ],
)
def test_refusals_in_words(status: int, code: str, words: str) -> None:
    error = failure("/dev/nvme0", "command 84h", status)
    assert error.code == code
    assert words in str(error)
    refusing = NvmeDrive(Canned(lambda command: NvmeReply(status=status, result=0, data=b"")))
    for question in (refusing.identify, refusing.namespaces, refusing.sanitize_log):
        with pytest.raises(DeviceError) as caught:
            question()
        assert caught.value.code == code


def test_what_is_attached_already_may_stay_so() -> None:
    NvmeDrive(Canned(lambda command: NvmeReply(status=0x118, result=0, data=b""))).attach(2, 0)
    with pytest.raises(DeviceError, match="private"):
        NvmeDrive(Canned(lambda command: NvmeReply(status=0x119, result=0, data=b""))).attach(2, 0)


# --- whatever a drive says

PARSERS: list[Callable[[bytes], Any]] = [
    parse_controller, parse_list, parse_sanitize_log, parse_firmware_log,
    lambda data: parse_namespace(1, data),
]  # fmt: skip


@given(
    head=st.binary(max_size=600), size=st.sampled_from([0, 32, 512, 4096]), parser=st.sampled_from(PARSERS)
)
def test_no_bytes_make_a_reader_stumble(head: bytes, size: int, parser: Callable[[bytes], Any]) -> None:
    try:
        json.dumps(parser(head.ljust(size, b"\0")), default=str)
    except DeviceError as error:
        assert error.code == "bad_answer"  # noqa: PT017 - most bytes are read


# --- the equivalent command lines


@pytest.mark.skipif(shutil.which("nvme", path="/usr/sbin:/usr/bin") is None, reason="needs nvme-cli")
@pytest.mark.parametrize(
    "command",
    [
        sanitize_command(Action.OVERWRITE, exit_allowed=True, no_deallocate=True),
        format_command(namespace(), SecureErase.USER_DATA),
        attachment_command(3, 1, attach=True),
        attachment_command(3, 1, attach=False),
    ],
    ids=str,
)
def test_nvme_cli_has_the_options(command: NvmeCommand) -> None:
    _, verb, _, *options = command.equivalent.split()
    done = subprocess.run(["/usr/sbin/nvme", verb, "--help"], capture_output=True, text=True, check=False)
    known = set(re.findall(r"--[a-z-]+", done.stdout + done.stderr))
    assert {option.partition("=")[0] for option in options} <= known
