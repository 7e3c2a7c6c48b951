"""Signs that other machines use a disk too: cluster file systems on it, persistent reservations of others."""

from __future__ import annotations

from collections.abc import Callable

from teeth_agent.drives.scsi import ScsiDrive
from teeth_agent.erase.methods import Ports
from teeth_agent.erase.model import Unit
from teeth_agent.errors import AgentError

_SCSI = ("scsi", "sas", "iscsi", "fc")
# libblkid's words for file systems that several machines mount at once.
_CLUSTERS = frozenset({"VMFS", "VMFS_volume_member", "gfs", "gfs2", "ocfs", "ocfs2", "ceph_bluestore"})


def shared_use(unit: Unit, ports: Ports, content: Callable[[str], str | None]) -> tuple[str, ...]:
    """One phrase each. ``content`` gives what blkid calls the file system on a device node.

    Never raises: what cannot be read says nothing of others, and the transport decides then.
    """
    found = []
    for name in (part for medium in unit.media for part in (medium.name, *medium.partitions)):
        try:
            kind = content(f"/dev/{name}")
        except AgentError:
            continue
        if kind in _CLUSTERS:
            found.append(f"{name} holds {kind}")
    return (*found, *_reservations(unit, ports))


def _reservations(unit: Unit, ports: Ports) -> tuple[str, ...]:
    medium = unit.first
    if medium.controller is not None or medium.transport not in _SCSI or medium.speaks_ata:
        return ()
    try:
        with ports.open_scsi(medium.devnode) as port:
            keys = ScsiDrive(port, device=medium.devnode).reservation_keys()
    except AgentError:
        return ()
    # This system registers none: whatever key there is is somebody else's.
    return (f"{len(keys)} persistent reservation keys of other initiators",) if keys else ()
