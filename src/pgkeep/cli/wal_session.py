"""From settings to an open repository, for commands that the server starts for every segment.

The same steps as in ``session``, with less on the way: no argparse, no key that is not used. The
host's own key opens metadata only, so neither command asks for it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.config import Settings, load_settings, state_directory
from pgkeep.errors import ConfigError, LocalIOError

if TYPE_CHECKING:
    from pgkeep.cli.wal import Options
    from pgkeep.repository.identity import Repository, RepositoryIdentity, Unlock
    from pgkeep.storage.interface import Store


def read_settings(options: Options) -> Settings:
    """The settings of this command line and environment. Raises ``ConfigError``."""
    given = {name: options.value(name) for name in ("repo", "cluster", "pgdata")}
    return load_settings(os.environ, overrides=given, config_file=options.value("config"))


def state_of(settings: Settings, pgdata: str) -> Path:
    """The state directory of the data directory's owner. Raises ``ConfigError``."""
    return state_directory(settings, os.stat(pgdata).st_uid)  # noqa: PTH116


def become_owner_of(pgdata: str) -> None:
    """Started by root, go on as the data directory's owner, as the server would have."""
    if os.geteuid() != 0:
        return
    found = os.stat(pgdata)  # noqa: PTH116
    if found.st_uid != 0:
        from pgkeep.cli.privileges import become

        become(found.st_uid, gid=found.st_gid)


def open_store_of(settings: Settings) -> Store:
    """The store that PGKEEP_REPO names. It tries nothing again: the whole of a run is, by
    ``archive/patience.py``. Raises ``ConfigError``, and what opening raises."""
    if settings.repo is None:
        raise ConfigError(
            "No repository is named.",
            remedy="Set PGKEEP_REPO for the server, or name it in /etc/pgkeep/pgkeep.toml.",
        )
    from pgkeep.cli.store_settings import store_options
    from pgkeep.storage import open_store
    from pgkeep.storage.checked import CheckedStore

    return CheckedStore(open_store(settings.repo, store_options(settings)))


def ask_ahead(store: Store, settings: Settings, *, cluster: str | None = None) -> Store:
    """The store, asked at once for the records that opening the repository reads, and for the
    systems of ``cluster`` if that is given. One that is no network away is asked when they are
    read."""
    from pgkeep.cli.store_settings import store_names

    if not store_names(settings):
        return store
    from pgkeep.repository import layout
    from pgkeep.storage.read_ahead import ReadAheadStore

    newest = [layout.KEYS, *([] if cluster is None else [layout.systems(cluster)])]
    return ReadAheadStore(store, keys=[layout.IDENTITY], newest=newest)


def open_to_write(store: Store, settings: Settings, state: Path) -> Repository:
    """The repository with its public halves only, checked against this host's pin, whose store
    refuses a second create or looks first."""
    from pgkeep.archive.conditions import with_conditions
    from pgkeep.repository.host import HostState, parse_host_key
    from pgkeep.repository.identity import Repository, make_keyring, read_identity

    given = parse_host_key(settings.host_key) if settings.host_key else None
    identity = read_identity(store)
    try:
        HostState(state, given_key=given).check_pin(store.url, identity.id, identity.fingerprint)
    except LocalIOError:
        # A host key that was given is a pin by itself: a container may have no state directory.
        if given is None:
            raise
    store = with_conditions(store, state / "conditions")
    return Repository(store, identity, make_keyring(identity))


def open_to_read(store: Store, settings: Settings, state: Path) -> Repository:
    """The repository with what the identity opens.

    Where the state directory cannot be used, the pin is not checked: what is read is
    authenticated by the identity, and a copy restored elsewhere may have no state directory.
    """
    from pgkeep.repository.host import HostState
    from pgkeep.repository.identity import Repository, make_keyring, read_identity

    identity = read_identity(store)
    try:
        HostState(state).check_pin(store.url, identity.id, identity.fingerprint)
    except LocalIOError as error:
        del error
    unlock = _unlock(settings) if identity.keys is not None else None
    return Repository(store, identity, make_keyring(identity, unlock=unlock))


def _unlock(settings: Settings) -> Unlock:
    from pgkeep.cli.session import unlock_of

    return unlock_of(settings)


def open_several_to_read(settings: Settings, state: Path) -> Repository:
    """As :func:`open_to_read`, what any of the repositories has.

    All of them count: a file that one which is silent may have is not called absent. A place where
    no repository is has none.
    """
    from pgkeep.errors import NoRepository, StoreError
    from pgkeep.mirror.member import Member, check_same_identity
    from pgkeep.repository.identity import read_identity
    from pgkeep.storage.absent import AbsentStore
    from pgkeep.storage.fallback import FallbackStore

    stores: list[Store] = []
    first: tuple[Member, RepositoryIdentity] | None = None
    problem: StoreError | NoRepository | None = None
    for name, one in {"main": settings, **settings.mirrors}.items():
        try:
            store = ask_ahead(open_store_of(one), one)
            identity = read_identity(store)
        except StoreError as error:
            problem = problem or error
            stores.append(AbsentStore(str(one.repo), error))
            continue
        except NoRepository as error:
            problem = problem or error
            continue
        if first is None:
            first = Member(name, store), identity
        check_same_identity(identity, Member(name, store), first[1], str(first[0]))
        stores.append(store)
    if first is None and problem is not None:
        raise problem
    stores.sort(key=lambda store: isinstance(store, AbsentStore))
    return open_to_read(FallbackStore(stores), settings, state)


def say(options: Options, text: str) -> None:
    """What was done, for ``--json`` and ``-v`` only: the server's log needs no word of success."""
    if options.has("json"):
        import json

        print(json.dumps({"command": options.command, "result": text}), file=sys.stdout, flush=True)
    elif options.has("verbose"):
        print(f"{options.command}: {text}", file=sys.stderr, flush=True)
