"""What can be typed. Every command ends with one clear line and exit 1 when something is wrong."""

from __future__ import annotations

import asyncio
import json
import platform
import runpy
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from . import __version__
from .console import CannotStart, say
from .settings import adopt, given

if TYPE_CHECKING:
    from mailcore.kit.settings import Base

app = typer.Typer(
    name="postroom",
    help="Postroom: a self-hosted mail platform. `postroom up` starts a whole installation on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
org = typer.Typer(help="Organizations of this installation.", no_args_is_help=True)
app.add_typer(org, name="org")
user = typer.Typer(help="Users of this installation.", no_args_is_help=True)
app.add_typer(user, name="user")
keys = typer.Typer(help="The key that stored secrets are sealed with.", no_args_is_help=True)
app.add_typer(keys, name="keys")

Data = Annotated[
    Path, typer.Option(help="Folder of a running `postroom up`, for when POSTROOM_DATABASE__URL is not set.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of text for people.")]


def _end(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise typer.Exit(1)


def _settings(data: Path) -> Base:
    """Those of the environment; where it names no database, those of the stack that runs in `data`."""
    from mailcore.kit.settings import Base, load  # noqa: PLC0415 - a command loads what it needs

    from .local.devfile import settings_of  # noqa: PLC0415

    try:
        known = given()
        if "POSTROOM_DATABASE__URL" not in known.values:
            adopt(known.over(settings_of(data)))
    except CannotStart as error:
        _end(str(error))
    return load(Base)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    import asyncpg  # noqa: PLC0415

    from mailcore.kit.errors import MailError  # noqa: PLC0415

    try:
        return asyncio.run(work)
    except CannotStart as error:
        _end(str(error))
    except MailError as error:
        _end(error.public)
    except asyncpg.InsufficientPrivilegeError as error:
        _end(f"{error}: set POSTROOM_DATABASE__MIGRATE_URL to the login that may create tables.")
    except asyncpg.UndefinedTableError:
        _end("The database has no tables yet: run postroom migrate first.")
    except asyncpg.PostgresError as error:
        _end(f"The database refuses: {error}. Correct POSTROOM_DATABASE__MIGRATE_URL.")
    except OSError as error:
        _end(f"No database at DATABASE__MIGRATE_URL ({error}): start PostgreSQL or correct the address.")


@app.command()
def up(
    data: Annotated[Path, typer.Option(help="Folder of everything this installation keeps.")] = Path(".postroom"),
    port_base: Annotated[
        int,
        typer.Option(
            help="Ports are counted from here: +0 HTTP, +1 MX, +2 and +3 submission, +5 catcher, +6 metrics, +7 DNS,"
            " +20 Postgres, +21 Redis, +22 and up operations of each service."
        ),
    ] = 8080,
    mode: Annotated[
        str, typer.Option(help="catch: no mail leaves this machine (the default). live: mail goes to its recipients.")
    ] = "catch",
    postgres: Annotated[
        int | None, typer.Option(help="Major version for a new folder: 18 (the default) or 16.", show_default=False)
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start the services again when their source changes.")
    ] = False,
) -> None:
    """Start a whole installation on this machine and stay until Ctrl-C.

    Postgres, Redis, migration, first organization, catcher, DNS and every service. A part that dies is started again. Addresses
    and keys are in DATA/dev.json once it is ready; a second start finds everything again. Any POSTROOM_ setting wins over
    what the mode sets; with POSTROOM_DATABASE__URL or POSTROOM_REDIS__URL set, that server is used instead of an own one.
    """
    from .local.defaults import Mode  # noqa: PLC0415
    from .local.stack import Choice, up  # noqa: PLC0415

    if mode not in list(Mode):
        _end(f"--mode {mode} is unknown: use catch or live.")
    if postgres not in (None, 16, 18):
        _end(f"--postgres {postgres} is not to be had: use 18 or 16.")
    raise typer.Exit(_run(up(Choice(data, port_base, Mode(mode), postgres, reload), given())))


@app.command()
def serve(
    service: Annotated[str, typer.Argument(help="api, inbound-smtp, outbound, imap-sync or webhooks.")],
) -> None:
    """Run one service in the foreground, with the settings of the environment."""
    from .local.defaults import SERVICES  # noqa: PLC0415

    found = {item.name: item for item in SERVICES}.get(service.replace("_", "-"))
    if found is None:
        _end(f"There is no service {service}: use {', '.join(item.name for item in SERVICES)}.")
    sys.argv = [found.module]
    runpy.run_module(found.module, run_name="__main__", alter_sys=True)


@app.command()
def migrate(
    up_: Annotated[bool, typer.Option("--up", help="Bring the database to this version (the default).")] = False,
    down: Annotated[bool, typer.Option("--down", help="Take every table away, with all that is in them.")] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the SQL instead of running it.")] = False,
) -> None:
    """Bring the database's tables to what this version needs."""
    from mailcore.store import migrate  # noqa: PLC0415

    if up_ + down + sql > 1:
        _end("Choose one of --up, --down and --sql.")
    sys.argv = ["postroom migrate", "down" if down else "sql" if sql else "up"]
    migrate.main()


@app.command()
def setup(
    admin_email: Annotated[str, typer.Option(help="Login of the first admin.")] = "admin@postroom.test",
    credentials: Annotated[
        Path | None,
        typer.Option(help="File (0600) that keeps the key and the password; what is not in it is made anew."),
    ] = None,
    lab: Annotated[
        bool,
        typer.Option("--lab", help="Also make postroom.test a verified domain (catch mode: needs CATCH__DNS_DIR)."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the first organization, its admin and an API key, where there are none yet."""
    from mailcore.kit.settings import Base, load  # noqa: PLC0415

    from .setup import set_up  # noqa: PLC0415

    settings = load(Base)
    if lab and not settings.catch.dns_dir:
        _end("--lab needs a folder of zones: set POSTROOM_CATCH__DNS_DIR.")
    url = settings.database.migrate_url or settings.database.url
    folder = Path(settings.catch.dns_dir) if lab and settings.catch.dns_dir else None
    made = _run(set_up(url, settings.keyring(), admin_email=admin_email, credentials=credentials, lab=folder))
    if as_json:
        say(json.dumps({name: getattr(made, name) for name in ("org_id", "api_key", "admin_email", "admin_password")}))
    elif credentials is not None:
        say(f"Set up; key and password are in {credentials}.")
    elif made.api_key is None:
        say(f"Already set up: organization {made.org_id}. Keys and passwords are shown only when they are made.")
    else:
        say(f"Organization {made.org_id}")
        say(f"API key      {made.api_key}")
        say(f"Admin        {made.admin_email} / {made.admin_password or '(unchanged)'}")
        say("Write them down: they are not shown again.")


@org.command()
def create(
    name: Annotated[str, typer.Argument(help="What the organization is called, up to 200 characters.")],
    data: Data = Path(".postroom"),
    as_json: Json = False,
) -> None:
    """Make an organization and its first API key."""
    from .setup import create_organization  # noqa: PLC0415

    name = name.strip()
    if not 1 <= len(name) <= 200 or not name.isprintable():
        _end("An organization's name has 1 to 200 printable characters: choose another.")
    settings = _settings(data)
    org_id, key = _run(create_organization(settings.database.migrate_url or settings.database.url, name))
    if as_json:
        say(json.dumps({"org_id": str(org_id), "api_key": key}))
    else:
        say(f"Organization {org_id}\nAPI key      {key}\nWrite the key down: it is not shown again.")


@org.command()
def limits(
    organization: Annotated[str, typer.Argument(help="Its id or its name.")],
    daily: Annotated[str | None, typer.Option(help="Recipients a day.", show_default=False)] = None,
    monthly: Annotated[str | None, typer.Option(help="Recipients a calendar month.", show_default=False)] = None,
    rate: Annotated[str | None, typer.Option(help="Requests a second.", show_default=False)] = None,
    data: Data = Path(".postroom"),
    as_json: Json = False,
) -> None:
    """Show or change what an organization may send and ask.

    A limit is a number; 0 is no limit, and "default" what the installation's settings say (QUOTA__DAILY, QUOTA__MONTHLY,
    RATE_LIMIT__REQUESTS_PER_SECOND). Running services go by it within seconds.
    """
    from .setup import set_limits  # noqa: PLC0415

    asked = {"daily": daily, "monthly": monthly, "rate": rate}
    changes = {name: _limit(name, text) for name, text in asked.items() if text is not None}
    settings = _settings(data)
    now = _run(set_limits(settings.database.migrate_url or settings.database.url, organization, changes))
    if as_json:
        say(json.dumps(now))
    else:
        for name, number in now.items():
            say(f"{name:<8} {'default' if number is None else number or 'no limit'}")


def _limit(name: str, text: str) -> int | None:
    if text == "default":
        return None
    most = 2**31 - 1 if name == "rate" else 10**15
    if not (text.isascii() and text.isdigit() and len(text) < 18 and int(text) <= most):
        _end(f"--{name} {text}: give a number from 0 to {most}, or default.")
    return int(text)


@user.command("password")
def password(
    email: Annotated[str, typer.Argument(help="The address they sign in with.")],
    data: Data = Path(".postroom"),
    as_json: Json = False,
) -> None:
    """Set somebody's password, which ends all their sessions. Asks for it, or reads a line where no terminal is."""
    from .setup import set_password  # noqa: PLC0415

    settings = _settings(data)
    new = typer.prompt("New password", hide_input=True, confirmation_prompt=True) if sys.stdin.isatty() else ""
    new = new or sys.stdin.readline().rstrip("\r\n")
    ended = _run(set_password(settings.database.migrate_url or settings.database.url, email, new))
    if as_json:
        say(json.dumps({"email": email, "sessions_ended": ended}))
    else:
        say(f"The password of {email} is set. Sessions ended: {ended}.")


@keys.command("rotate")
def rotate(data: Data = Path(".postroom"), as_json: Json = False) -> None:
    """Seal all stored secrets with POSTROOM_ENCRYPTION_KEY that are still sealed with one of POSTROOM_OLD_ENCRYPTION_KEYS.

    Safe while services run, and safe to run again. docs/deploying.md has the steps before and after.
    """
    from .keys import rotate  # noqa: PLC0415

    settings = _settings(data)
    done = _run(rotate(settings.database.migrate_url or settings.database.url, settings.keyring()))
    if as_json:
        say(json.dumps({"resealed": done.resealed, "lost": done.lost}))
    else:
        for name, rows in done.resealed.items():
            say(f"{name:<30} {rows} sealed with the new key")
        if not done.resealed and not done.lost:
            say("Nothing to do: everything is sealed with POSTROOM_ENCRYPTION_KEY.")
    if done.lost:
        which = ", ".join(f"{rows} of {name}" for name, rows in done.lost.items())
        _end(
            f"No key opens {which}: set the key they were sealed with in POSTROOM_OLD_ENCRYPTION_KEYS and run this again."
        )


@app.command()
def doctor(data: Data = Path(".postroom"), as_json: Json = False) -> None:
    """Say what is wrong with this installation and with how its mail leaves, and what to do about each finding."""
    from mailcore.kit.settings import load  # noqa: PLC0415

    from .doctor import Sending, examine, examine_sending  # noqa: PLC0415
    from .local.defaults import SERVICES  # noqa: PLC0415

    settings = _settings(data)
    try:
        known = given()
        counts = {
            item.name: known.integer(f"POSTROOM_{item.setting}__PROCESSES", 1, low=0, high=32) for item in SERVICES
        }
    except CannotStart as error:
        _end(str(error))
    name = "postroom.test" if settings.catch.dir else "example.com"
    findings = _run(examine(settings, counts, name_to_ask=name)) + _run(examine_sending(load(Sending)))
    if as_json:
        say(json.dumps([{"check": item.check, "ok": item.ok, "text": item.text} for item in findings], indent=2))
    else:
        for item in findings:
            say(f"{'ok   ' if item.ok else 'WRONG' if item.ok is False else '?    '} {item.check:<20} {item.text}")
    if any(item.ok is False for item in findings):
        raise typer.Exit(1)


@app.command()
def version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        say(json.dumps({"postroom": __version__, "python": platform.python_version()}))
    else:
        say(f"postroom {__version__} (Python {platform.python_version()})")


def main() -> None:
    app()


if __name__ == "__main__":
    main()
