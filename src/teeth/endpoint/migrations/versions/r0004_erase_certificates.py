"""Certificates of erasure, and which ramdisk a node runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("nodes") as nodes:
        nodes.add_column(sa.Column("ramdisk", sa.String(), nullable=True))
    op.create_table(
        "erase_certificates",
        sa.Column("sequence", sa.Integer(), primary_key=True),
        sa.Column("task_id", sa.String(), sa.ForeignKey("tasks.task_id"), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("serial", sa.String(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("grade", sa.String(), nullable=True),
        sa.Column("issued", sa.Float(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
    )
    for column in ("task_id", "node_id", "serial"):
        op.create_index(f"ix_erase_certificates_{column}", "erase_certificates", [column])
