"""A task's cancellation is on record, and its changes are numbered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    with op.batch_alter_table("tasks") as tasks:
        tasks.add_column(sa.Column("cancel_asked", sa.Float(), nullable=True))
        tasks.add_column(sa.Column("revision", sa.Integer(), nullable=False, server_default="0"))
