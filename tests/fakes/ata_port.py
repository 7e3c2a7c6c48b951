"""The agent's ScsiPort over a Rig: commands go to the drive's model, time is the rig's, a timeout resets."""

from __future__ import annotations

from collections.abc import Callable

from fakes.drive_rig import Rig
from teeth.lab.drives.answer import Command, Wait
from teeth_agent.passthrough.scsi import ScsiReply

TIMED_OUT = 0x03 << 8  # host status DID_TIME_OUT
GONE = 0x01 << 8  # DID_NO_CONNECT


class RigPort:
    """``before`` is called with each CDB before it is sent, and may raise or change the rig. ``sent`` has all
    that reached the drive. ``strip`` changes sense data on their way, as adapters and emulators do."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.sent: list[tuple[bytes, bytes]] = []
        self.before: Callable[[bytes], None] = lambda cdb: None
        self.strip: Callable[[bytes], bytes] = lambda sense: sense
        self.gone = False

    def command(self, cdb: bytes, *, send: bytes = b"", receive: int = 0, timeout: float = 30.0) -> ScsiReply:
        self.before(cdb)
        if self.gone:
            return ScsiReply(status=0, sense=b"", data=b"", transport=GONE)
        self.sent.append((cdb, send))
        rig = self.rig
        deadline = rig.now + timeout
        life = rig.drive.disk.state.power_cycles
        answer = rig.drive.execute(Command(cdb=cdb.ljust(16, b"\0"), data=send, nexus="host"))
        while isinstance(answer, Wait):
            if answer.until > deadline or rig.drive.disk.state.power_cycles != life:
                rig.now = max(rig.now, min(answer.until, deadline))
                if rig.drive.disk.state.power_cycles == life:
                    rig.drive.reset()
                return ScsiReply(status=0, sense=b"", data=b"", transport=TIMED_OUT)
            rig.now = max(rig.now, answer.until)
            answer = answer.finish()
        return ScsiReply(
            status=answer.status, sense=self.strip(answer.raw), data=answer.data[:receive], transport=0
        )

    def orders(self, opcode: int) -> list[tuple[bytes, bytes]]:
        """What reached the drive by this SCSI command, with its data."""
        return [(cdb, data) for cdb, data in self.sent if cdb[0] == opcode]

    def opcodes(self) -> list[int]:
        """The ATA commands that were sent, in their order."""
        return [cdb[14] for cdb, _ in self.sent if cdb[0] == 0x85]


def codes_only(sense: bytes) -> bytes:
    """Fixed format with key and codes and nothing else: what translating descriptors may leave."""
    if not sense:
        return sense
    key, asc, ascq = sense[1:4] if sense[0] & 0x7F == 0x72 else (sense[2] & 0x0F, sense[12], sense[13])
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0))


def without_log_index(sense: bytes) -> bytes:
    """A translator that keeps no log of results."""
    if not sense or sense[0] & 0x7F != 0x70:
        return sense
    return sense[:8] + bytes((sense[8] & 0xF0,)) + sense[9:]
