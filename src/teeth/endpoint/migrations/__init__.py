"""The store's schema, step by step: Alembic revisions, run by ``teeth.endpoint.migrate`` at each start.

A revision is never edited once it has been in a release; a change of the schema is a new one. They are
written for any database that Alembic knows: what SQLite cannot alter goes through ``op.batch_alter_table``.
"""
