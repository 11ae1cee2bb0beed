"""From settings to open things: the state directory, the repository, a session with the server."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgkeep import __version__
from pgkeep.config import Settings, is_key_text, state_directory
from pgkeep.errors import ConfigError
from pgkeep.repository.host import HostKey, HostState, parse_host_key
from pgkeep.units import to_utc_text

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.postgres.access import ServerAccess
    from pgkeep.postgres.connection import ServerConnection
    from pgkeep.repository.identity import Repository, Unlock
    from pgkeep.storage.interface import Store
    from pgkeep.storage.outage import Outages


class OwnedHostState(HostState):
    """The state directory of somebody else, as root uses it: root leaves no file there that its
    owner could not read."""

    def __init__(self, directory: Path, owner_uid: int, *, given_key: HostKey | None) -> None:
        super().__init__(directory, given_key=given_key)
        self._owner_uid = owner_uid

    def check_pin(self, url: str, repository_id: str, fingerprint: str) -> None:
        from pgkeep.cli.privileges import acting_as

        with acting_as(self._owner_uid):
            super().check_pin(url, repository_id, fingerprint)


def open_host_state(settings: Settings, owner_uid: int) -> HostState:
    """What this host remembers of repositories, for the owner of data directories.

    Raises ``ConfigError``.
    """
    directory = state_directory(settings, owner_uid)
    given = parse_host_key(settings.host_key) if settings.host_key else None
    if os.geteuid() == 0 and directory.is_dir() and (uid := directory.stat().st_uid) != 0:
        return OwnedHostState(directory, uid, given_key=given)
    return HostState(directory, given_key=given)


def open_store(
    settings: Settings, *, create: bool = False, outages: Outages | None = None
) -> Store:
    """The store that PGKEEP_REPO names, as persistent as ``cli/outages.py`` says.

    Opening is not tried again: a directory that is missing is rather not mounted than away.
    Raises ``ConfigError`` when PGKEEP_REPO is not set, and what opening raises.
    """
    from pgkeep.cli.outages import PATIENCE_SECONDS
    from pgkeep.storage.retry import RetryingStore

    store = open_url_of(settings, create=create)
    return RetryingStore(store, deadline_seconds=PATIENCE_SECONDS, outages=outages)


def open_url_of(settings: Settings, *, create: bool = False) -> Store:
    """The store that the settings name, whose calls are not tried again."""
    from pgkeep.cli.store_settings import store_options
    from pgkeep.storage import open_store as open_url
    from pgkeep.storage.checked import CheckedStore

    if settings.repo is None:
        raise ConfigError(
            "No repository is named.",
            remedy="Set PGKEEP_REPO, or give --repo, for example file:///var/backups/pgkeep.",
        )
    opened = open_url(settings.repo, store_options(settings), create=create)
    return CheckedStore(opened, unless="/packs/")


def open_repo(context: Context, owner_uid: int) -> Repository:
    """The repository, to be read, with every key that the settings open; with mirrors, what any
    of them has.

    Raises ``NoRepository``, ``KeysChanged``, ``WrongIdentity``, ``ConfigError``, ``StoreError``.
    """
    from pgkeep.repository.identity import open_repository
    from pgkeep.repository.start import ask_for_start

    settings = context.settings
    host = open_host_state(settings, owner_uid)
    if settings.mirrors:
        from pgkeep.cli.members import open_members, reading_seconds, reading_store

        members = open_members(context, owner_uid, seconds=reading_seconds(settings))
        store = reading_store(context, members)
    else:
        store = open_store(settings, outages=context.outages)
    return open_repository(ask_for_start(store, settings.cluster), host, unlock=unlock_of(settings))


def identity_text(settings: Settings) -> str | None:
    """The identity's text, read from its file if it is a path. Raises ``ConfigError``."""
    given = settings.identity
    if given is None or is_key_text(given):
        return given
    try:
        return Path(given).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The identity file {given} cannot be read.",
            why=f"{getattr(error, 'strerror', None) or 'It is not text'}.",
            remedy="Check PGKEEP_IDENTITY, and who may read the file.",
        ) from error


def unlock_of(settings: Settings) -> Unlock:
    """Everything in the settings that may open a repository's secrets."""
    from pgkeep.repository.identity import Unlock
    from pgkeep.seal.age import read_identities

    text = identity_text(settings)
    identities = tuple(read_identities(text)) if text is not None else ()
    return Unlock(identities, settings.passphrase)


def connect_server(context: Context) -> ServerConnection:
    """A session with the server that the settings and libpq's own variables name.

    Raises ``ServerError``.
    """
    return server_access(context).connect()


def server_access(context: Context) -> ServerAccess:
    """How that server is reached.

    libpq's variables win over the file's ``[server]`` table, as every variable does. The database
    is ``postgres`` unless something names another.
    """
    from psycopg import pq

    from pgkeep.postgres.access import ServerAccess

    environ = context.environ
    variables = {
        option.keyword.decode(): option.envvar.decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar
    }
    parameters = {
        name: value
        for name, value in context.settings.server.items()
        if not environ.get(variables.get(name, ""))
    }
    if not {"dbname", "service"} & set(parameters) and not (
        environ.get("PGDATABASE") or environ.get("PGSERVICE")
    ):
        parameters["dbname"] = "postgres"
    return ServerAccess(parameters, environ)


def now_text() -> str:
    """The present moment as records store it."""
    return to_utc_text(datetime.now(UTC))


def writer_facts() -> dict[str, Any]:
    """Who writes a record (format, section 2)."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "version": __version__}
