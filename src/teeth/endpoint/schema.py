"""The tables as this version knows them; ``migrations`` makes them. Times are seconds since the epoch; JSON
columns hold what ``redact`` let through."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

nodes = sa.Table(
    "nodes",
    metadata,
    sa.Column("node_id", sa.String, primary_key=True),
    sa.Column("macs", sa.JSON, nullable=False),
    sa.Column("first_seen", sa.Float, nullable=False),
    sa.Column("last_seen", sa.Float, nullable=False),
    # Rises with every accepted handshake; a write that carries an older one is refused.
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("boot_id", sa.String, nullable=False),
    sa.Column("agent", sa.String, nullable=False),
    # The ramdisk's digest, as the agent said it at the handshake.
    sa.Column("ramdisk", sa.String, nullable=True),
    sa.Column("inventory", sa.JSON, nullable=True),
    sa.Column("inventory_at", sa.Float, nullable=True),
)

# Whose a node id is: the machine that enrolled under it. ``nodes`` is what was last seen of it.
machines = sa.Table(
    "machines",
    metadata,
    sa.Column("node_id", sa.String, primary_key=True),
    sa.Column("macs", sa.JSON, nullable=False),
    sa.Column("uuid", sa.String, nullable=True),
    # The newest boot that enrolled; only its sessions are accepted.
    sa.Column("boot_id", sa.String, nullable=False),
    sa.Column("enrolled", sa.Float, nullable=False),
)

certificates = sa.Table(
    "certificates",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("node_id", sa.String, nullable=False, index=True),
    sa.Column("boot_id", sa.String, nullable=False),
    # sha256, in hex, of the public key's SubjectPublicKeyInfo.
    sa.Column("spki", sa.String, nullable=False),
    sa.Column("issued", sa.Float, nullable=False),
    sa.Column("not_after", sa.Float, nullable=False),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("node_id", sa.ForeignKey("nodes.node_id"), nullable=False, index=True),
    sa.Column("epoch", sa.Integer, nullable=False),
    sa.Column("boot_id", sa.String, nullable=False),
    sa.Column("peer", sa.String, nullable=False),
    sa.Column("opened", sa.Float, nullable=False),
    sa.Column("closed", sa.Float, nullable=True),
    sa.Column("reason", sa.String, nullable=True),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("task_id", sa.String, primary_key=True),
    sa.Column("node_id", sa.String, nullable=False, index=True),
    sa.Column("method", sa.String, nullable=False),
    sa.Column("params", sa.JSON, nullable=False),
    sa.Column("params_digest", sa.String, nullable=False),
    sa.Column("awaits_landing", sa.Boolean, nullable=False),
    sa.Column("held", sa.Boolean, nullable=False),
    sa.Column("state", sa.String, nullable=False, index=True),
    # The boot the task was sent to; None while it never left here.
    sa.Column("boot_id", sa.String, nullable=True),
    sa.Column("seq", sa.Integer, nullable=False),
    sa.Column("percent", sa.Float, nullable=False),
    sa.Column("eta", sa.Float, nullable=True),
    sa.Column("step", sa.String, nullable=False),
    sa.Column("phase", sa.String, nullable=False),
    sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
    sa.Column("code", sa.String, nullable=False),
    sa.Column("msg", sa.String, nullable=False),
    sa.Column("final_digest", sa.String, nullable=True),
    # When somebody asked to cancel it: a wish that outlives connections and restarts, until the task is over.
    sa.Column("cancel_asked", sa.Float, nullable=True),
    # Rises with every change, whatever the clock does: what is newer is told by it.
    sa.Column("revision", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("updated", sa.Float, nullable=False),
    sa.Column("finished", sa.Float, nullable=True),
)

# Params with their secrets, apart from everything that is listed, and only until the task is over.
task_secrets = sa.Table(
    "task_secrets",
    metadata,
    sa.Column("task_id", sa.ForeignKey("tasks.task_id"), primary_key=True),
    sa.Column("params", sa.JSON, nullable=False),
)

task_events = sa.Table(
    "task_events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.ForeignKey("tasks.task_id"), nullable=False, index=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("progress", sa.Boolean, nullable=False),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
)

landings = sa.Table(
    "landings",
    metadata,
    sa.Column("token_hash", sa.String, primary_key=True),
    sa.Column("task_id", sa.ForeignKey("tasks.task_id"), nullable=False, index=True),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("used", sa.Float, nullable=True),
    sa.Column("body_digest", sa.String, nullable=True),
    sa.Column("facts", sa.JSON(none_as_null=True), nullable=True),
)

# Certificates of erasure. Rows are only ever added: each holds the digest of the one before it.
erase_certificates = sa.Table(
    "erase_certificates",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.ForeignKey("tasks.task_id"), nullable=False, index=True),
    sa.Column("node_id", sa.String, nullable=False, index=True),
    sa.Column("serial", sa.String, nullable=True, index=True),
    sa.Column("outcome", sa.String, nullable=False),
    sa.Column("grade", sa.String, nullable=True),
    sa.Column("issued", sa.Float, nullable=False),
    sa.Column("digest", sa.String, nullable=False),
    # The signed line itself, as it is given to whoever asks.
    sa.Column("sealed", sa.String, nullable=False),
)

logs = sa.Table(
    "logs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("node_id", sa.String, nullable=False, index=True),
    sa.Column("received", sa.Float, nullable=False),
    sa.Column("record", sa.JSON, nullable=False),
)
