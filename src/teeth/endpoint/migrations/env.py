"""Alembic's way in: it runs this file. The connection, and its transaction, are the caller's."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
# Batch mode: SQLite cannot drop or retype a column, so the table is copied; elsewhere it is a plain ALTER.
context.configure(connection=connection, target_metadata=None, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
