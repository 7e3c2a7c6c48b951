"""A store brought to the schema that this version knows, in one transaction."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from teeth.errors import TeethError

_FIRST = "0001"
# What stores said of themselves (PRAGMA user_version) before they had revisions, and what ours say: an older
# teeth refuses to open it.
_BEFORE_REVISIONS, _WITH_REVISIONS = 1, 2


def upgrade(connection: sa.Connection, name: str, *, scripts: str = "teeth.endpoint:migrations") -> None:
    """Run every revision that the store lacks, on a connection that is in a transaction.

    ``scripts`` is Alembic's script location. Raises TeethError in one line when the store is newer than this
    version or a revision fails; the caller's transaction must then be rolled back.
    """
    config = Config()
    config.set_main_option("script_location", scripts)
    config.attributes["connection"] = connection
    known = ScriptDirectory.from_config(config)
    stored = MigrationContext.configure(connection).get_current_revision()
    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
    _require_known(stored, version, known, name)
    try:
        if stored is None and version == _BEFORE_REVISIONS:
            command.stamp(config, _FIRST)
        if stored != known.get_current_head():
            command.upgrade(config, "head")
            _require_whole(connection)
        if version != _WITH_REVISIONS:
            connection.exec_driver_sql(f"PRAGMA user_version={_WITH_REVISIONS}")
    except Exception as error:  # also a slip of a script: the operator is told in one line all the same
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise TeethError(
            f"the store {name} could not be brought up to date and was left as it was: {reason}"
        ) from error


def _require_known(stored: str | None, version: int, known: ScriptDirectory, name: str) -> None:
    ours = {script.revision for script in known.walk_revisions()}
    newer = stored is not None and stored not in ours
    if newer or version > _WITH_REVISIONS or (stored is None and version == _WITH_REVISIONS):
        said = f"revision {stored}" if stored is not None else f"schema {version}"
        raise TeethError(
            f"the store {name} was written by another version of teeth ({said})",
            hint="run that version, or give another data folder",
        )


def _require_whole(connection: sa.Connection) -> None:
    """References are not enforced while tables are copied, so they are looked at before the end."""
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").first()
    if broken is not None:
        raise CommandError(f"a row of {broken[0]} refers to nothing")
