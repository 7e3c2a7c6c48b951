"""The wire's method names, spelt as the contract spells them."""

from __future__ import annotations

PING = "ping"
HANDSHAKE = "handshake"
LOG = "log"
STATUS = "status"
INVENTORY = "inventory"
TASK_STATUS = "task_status"
DISK_ERASE = "decom.disk_erase"
PREPARE_IMAGE = "standbye.prepare_image"
RUN_IMAGE = "standbye.run_image"

# What may be said before the handshake is done.
UNAUTHENTICATED = frozenset({PING, HANDSHAKE, "enroll"})
