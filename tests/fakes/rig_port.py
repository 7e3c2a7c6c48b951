"""A simulated drive on its bench as the agent's SCSI port sees it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fakes.drive_rig import Rig
from teeth.lab.drives.answer import Command, Wait
from teeth_agent.passthrough.scsi import ScsiReply


@dataclass
class RigPort:
    """A teeth_agent.passthrough.scsi.ScsiPort. ``cdbs``: what was sent, with its data.

    The clock is set forward where the drive wants time; a command that it never answers ends with the
    transport status of a timeout (DID_TIME_OUT). ``broken`` is a transport status for everything.
    """

    rig: Rig
    nexus: str = "agent"
    broken: int = 0
    cdbs: list[tuple[bytes, bytes]] = field(default_factory=list)

    def command(self, cdb: bytes, *, send: bytes = b"", receive: int = 0, timeout: float = 30.0) -> ScsiReply:
        self.cdbs.append((cdb, send))
        if self.broken:
            return ScsiReply(status=0, sense=b"", data=b"", transport=self.broken)
        answer = self.rig.drive.execute(
            Command(cdb=cdb, data=send, nexus=self.nexus, expected=receive or len(send))
        )
        until = self.rig.now + timeout
        while isinstance(answer, Wait):
            if math.isinf(answer.until) or answer.until > until:
                self.rig.now = until
                return ScsiReply(status=0, sense=b"", data=b"", transport=0x0300)
            self.rig.now = max(self.rig.now, answer.until)
            answer = answer.finish()
        return ScsiReply(status=int(answer.status), sense=answer.raw, data=answer.data[:receive])

    def sent(self, opcode: int) -> list[tuple[bytes, bytes]]:
        return [(cdb, data) for cdb, data in self.cdbs if cdb[0] == opcode]
