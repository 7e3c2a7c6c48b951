"""Machines own their node ids, certificates are on record, a grant is burnt to a key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    machines = op.create_table(
        "machines",
        sa.Column("node_id", sa.String(), primary_key=True),
        sa.Column("macs", sa.JSON(), nullable=False),
        sa.Column("uuid", sa.String(), nullable=True),
        sa.Column("boot_id", sa.String(), nullable=False),
        sa.Column("enrolled", sa.Float(), nullable=False),
    )
    op.create_table(
        "certificates",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("boot_id", sa.String(), nullable=False),
        sa.Column("spki", sa.String(), nullable=False),
        sa.Column("issued", sa.Float(), nullable=False),
        sa.Column("not_after", sa.Float(), nullable=False),
    )
    op.create_index("ix_certificates_node_id", "certificates", ["node_id"])
    if not sa.inspect(op.get_bind()).has_table("boot_grants"):
        _grants()
    with op.batch_alter_table("boot_grants") as grants:
        grants.add_column(sa.Column("uuid", sa.String(), nullable=True))
        grants.add_column(sa.Column("spki", sa.String(), nullable=True))
        grants.add_column(sa.Column("node_id", sa.String(), nullable=True))
    op.create_index("ix_boot_grants_uuid", "boot_grants", ["uuid"])
    _owners(machines)


def _grants() -> None:
    """In a first store the boot server made this table, perhaps never. As in 0001."""
    op.create_table(
        "boot_grants",
        sa.Column("token_hash", sa.String(), primary_key=True),
        sa.Column("token", sa.String(), nullable=True),
        sa.Column("mac", sa.String(), nullable=True),
        sa.Column("created", sa.Float(), nullable=False),
        sa.Column("expires", sa.Float(), nullable=False),
        sa.Column("boot_id", sa.String(), nullable=True),
        sa.Column("burnt", sa.Float(), nullable=True),
    )
    op.create_index("ix_boot_grants_mac", "boot_grants", ["mac"])


def _owners(machines: sa.Table) -> None:
    """A node that has shown its interfaces keeps its id: no other machine is to get what is asked of it."""
    nodes = sa.table(
        "nodes",
        sa.column("node_id", sa.String),
        sa.column("macs", sa.JSON),
        sa.column("boot_id", sa.String),
        sa.column("first_seen", sa.Float),
    )
    known = op.get_bind().execute(sa.select(nodes)).all()
    owners = [
        {"node_id": row.node_id, "macs": row.macs, "boot_id": row.boot_id, "enrolled": row.first_seen}
        for row in known
        if row.macs
    ]
    if owners:
        op.bulk_insert(machines, owners)
