"""The schema's one history: up, down, or as SQL; and the login that services use.

    python -m mailcore.store.migrate up | down | sql | current

Reads `POSTROOM_DATABASE__MIGRATE_URL` (who may create tables and roles; falls back to `POSTROOM_DATABASE__URL`) and makes
the login named in `POSTROOM_DATABASE__URL`, which inherits nothing and may take the roles of a transaction.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import asyncpg
from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only

from mailcore.kit.errors import Refused, Unavailable
from mailcore.kit.seal import Keyring

ROLES = ("postroom_app", "postroom_door", "postroom_worker", "postroom_people")
_LOCK = 7_263_104_557_918
_CHECK = b"postroom"


def _config() -> Config:
    here = Path(__file__)
    shipped, source = here.with_name("_migrations"), here.parents[3] / "migrations"
    config = Config()
    config.set_main_option("script_location", str(shipped if shipped.is_dir() else source))
    return config


def head() -> str:
    """The newest revision this code knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    assert revision is not None
    return revision


def run_script(sql: str) -> None:
    """For a migration: runs a script of many statements in the migration's transaction (or prints it with --sql)."""
    if op.get_context().as_sql:
        op.get_context().impl.static_output(sql)
        return
    connection = op.get_bind()
    connection.exec_driver_sql("SELECT 1")  # the driver opens the transaction at its first statement
    driver = connection.connection.driver_connection
    assert driver is not None
    await_only(driver.execute(sql))


async def migrate(url: str, target: str = "head") -> list[str]:
    """Brings the schema to `target` (`head`, `base`, a revision); returns the revisions now applied. Safe to run twice at once."""
    engine = create_async_engine(_sqlalchemy_url(url))
    try:
        async with engine.connect() as connection:
            version = await connection.exec_driver_sql("SHOW server_version_num")
            if int(version.scalar_one()) < 160_000:
                raise Refused("Postroom needs PostgreSQL 16 or later. Upgrade the server that DATABASE__URL names.")
            await connection.commit()
            # pg_advisory_lock is held by the session: this connection must not go through PgBouncer
            await connection.exec_driver_sql(f"SELECT pg_advisory_lock({_LOCK})")
            await connection.commit()
            try:
                return await connection.run_sync(_move, target)
            finally:
                await connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_LOCK})")
                await connection.commit()
    finally:
        await engine.dispose()


def _move(connection: Connection, target: str) -> list[str]:
    config = _config()
    config.attributes["connection"] = connection
    script = ScriptDirectory.from_config(config)
    context = MigrationContext.configure(connection)
    known = {revision.revision for revision in script.walk_revisions()}
    for revision in context.get_current_heads():
        if revision not in known:
            raise Refused(
                f"The database was written by a newer Postroom (revision {revision}). Install that version or a later one."
            )
    connection.commit()
    if target == "base":
        command.downgrade(config, "base")
    else:
        command.upgrade(config, target)
    connection.commit()
    return list(MigrationContext.configure(connection).get_current_heads())


async def current(url: str) -> str | None:
    """The revision the database is at; None when it is empty."""
    connection = await asyncpg.connect(url)
    try:
        if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
            return None
        return str(await connection.fetchval("SELECT version_num FROM alembic_version"))
    finally:
        await connection.close()


async def make_login(migrate_url: str, service_url: str) -> None:
    """Makes, or brings up to date, the login that services use. Does nothing when both URLs name the same one."""
    service, admin = urlsplit(service_url), urlsplit(migrate_url)
    name, password = unquote(service.username or ""), unquote(service.password or "")
    if not name or name == unquote(admin.username or ""):
        return
    connection = await asyncpg.connect(migrate_url)
    try:
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
            quoted = await connection.fetchval("SELECT quote_ident($1)", name)
            exists = await connection.fetchval("SELECT true FROM pg_roles WHERE rolname = $1", name)
            secret = await connection.fetchval("SELECT quote_literal($1)", password)
            verb = "ALTER" if exists else "CREATE"
            await connection.execute(f"{verb} ROLE {quoted} LOGIN NOINHERIT NOCREATEDB NOCREATEROLE PASSWORD {secret}")
            for role in ROLES:
                await connection.execute(f"GRANT {role} TO {quoted} WITH INHERIT FALSE, SET TRUE")
            await connection.execute(f"ALTER ROLE {quoted} SET statement_timeout = '60s'")
            await connection.execute(f"ALTER ROLE {quoted} SET idle_in_transaction_session_timeout = '60s'")
            await connection.execute(f"ALTER ROLE {quoted} SET synchronous_commit = on")
            await connection.execute(f"ALTER ROLE {quoted} SET jit = off")
    finally:
        await connection.close()


async def check_encryption_key(url: str, keyring: Keyring, *, claim: bool) -> None:
    """Raises Refused when this key is not the one the database was set up with. `claim` writes the check where none is yet."""
    connection = await asyncpg.connect(url)
    try:
        sealed = await connection.fetchval("SELECT key_check FROM installation")
        if sealed is None:
            if claim:
                await connection.execute(
                    "UPDATE installation SET key_check = $1 WHERE key_check IS NULL", keyring.seal(_CHECK, "check")
                )
            return
    finally:
        await connection.close()
    try:
        right = keyring.open(sealed, "check") == _CHECK
    except Refused:
        right = False
    if not right:
        raise Refused(
            "POSTROOM_ENCRYPTION_KEY is not the key this database was set up with. Set the key that was used then "
            "(postroom up keeps it in secrets.env of its data folder)."
        )


def as_sql() -> str:
    """The whole history as one SQL script, for those who run migrations by hand."""
    output = io.StringIO()
    config = _config()
    config.attributes["output"] = output
    command.upgrade(config, "head", sql=True)
    return output.getvalue()


def _sqlalchemy_url(url: str) -> str:
    return "postgresql+asyncpg://" + url.split("://", 1)[1]


async def _main(verb: str) -> None:
    from mailcore.kit.settings import Base  # noqa: PLC0415 - the command reads settings, the library does not

    settings = Base()
    url = settings.database.migrate_url or settings.database.url
    if verb == "current":
        print(await current(url))  # noqa: T201
        return
    revisions = await migrate(url, "base" if verb == "down" else "head")
    if verb == "up":
        await make_login(url, settings.database.url)
        await check_encryption_key(url, settings.keyring(), claim=True)
    print(f"Database is at revision {', '.join(revisions) or 'none'}.")  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mailcore.store.migrate", description=__doc__.splitlines()[0])
    parser.add_argument("verb", choices=["up", "down", "sql", "current"])
    verb = parser.parse_args().verb
    try:
        if verb == "sql":
            print(as_sql())  # noqa: T201
        else:
            asyncio.run(_main(verb))
    except (Refused, Unavailable) as error:
        sys.exit(error.public)
    except OSError as error:
        sys.exit(f"No database at DATABASE__MIGRATE_URL: {error}. Start PostgreSQL or correct the address.")


if __name__ == "__main__":
    main()
