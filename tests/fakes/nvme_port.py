"""A simulated NVMe drive on its bench as the agent's admin port sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from fakes.nvme_rig import NvmeRig
from teeth.lab.drives.nvme import NoCompletionError
from teeth_agent.errors import DeviceError
from teeth_agent.passthrough.nvme import NvmeReply, refuse_plain_format

FORMAT, SANITIZE = 0x80, 0x84


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One admin command that reached the drive."""

    opcode: int
    nsid: int
    cdw10: int
    cdw11: int


@dataclass
class NvmeRigPort:
    """A teeth_agent.passthrough.nvme.NvmePort. ``sent``: every command, in order.

    ``meddle`` may answer a command in the drive's place. Formats wait for ``gate``: while it is clear, they
    are under way. What the drive never answers is a DeviceError, as after the kernel's timeout.
    """

    rig: NvmeRig
    meddle: Callable[[Sent], NvmeReply | None] = lambda sent: None
    sent: list[Sent] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    formatting: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def admin(
        self,
        opcode: int,
        *,
        nsid: int = 0,
        cdw10: int = 0,
        cdw11: int = 0,
        cdw12: int = 0,
        cdw13: int = 0,
        cdw14: int = 0,
        cdw15: int = 0,
        send: bytes = b"",
        receive: int = 0,
        timeout: float = 60.0,
    ) -> NvmeReply:
        refuse_plain_format(opcode, cdw10)
        sent = Sent(opcode=opcode, nsid=nsid, cdw10=cdw10, cdw11=cdw11)
        self.sent.append(sent)
        if opcode == FORMAT:
            self.formatting.set()
            assert self.gate.wait(30)
        if (reply := self.meddle(sent)) is not None:
            return reply
        try:
            status, result, data = self.rig.drive.admin(
                opcode, nsid=nsid, cdw10=cdw10, cdw11=cdw11, cdw12=cdw12, cdw13=cdw13, cdw14=cdw14,
                cdw15=cdw15, data=send,
            )  # fmt: skip
        except NoCompletionError as error:
            raise DeviceError("the kernel gave it up", code="passthrough_failed") from error
        return NvmeReply(status=status, result=result, data=data[:receive])

    def orders(self, opcode: int) -> list[Sent]:
        return [sent for sent in self.sent if sent.opcode == opcode]
