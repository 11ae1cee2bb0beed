"""Dumps made in this process, into a store in memory: fast, and with a store that fails as told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pgkeep.dump.load import plan_restore, restore_dump
from pgkeep.dump.options import DumpOptions
from pgkeep.dump.restore_plan import LoadOptions, LoadPlan
from pgkeep.dump.run import make_dump
from pgkeep.postgres.access import ServerAccess
from pgkeep.progress import Silent
from pgkeep.repository.dump_record import Contents
from pgkeep.repository.dumps import Dumps, read_dumps
from pgkeep.repository.identity import (
    Repository,
    Unlock,
    create_repository,
    make_key_set,
    make_keyring,
)
from pgkeep.repository.layout import Layout
from pgkeep.repository.system import register_system
from pgkeep.seal import age
from pgkeep.storage.interface import Buffer, Store
from pgkeep.storage.memory import MemoryStore
from pgkeep.units import to_utc_text
from tests.installations import find_installations
from tests.servers import PgServer

BY = {"host": "test", "pid": 1, "version": "0"}
PROGRAMS = ":".join(str(one.bin_dir) for one in find_installations().values())


class Killed(BaseException):
    """As good as a kill: nothing of ours gets to run but what always does."""


class KillingStore(MemoryStore):
    """Ends the run at the put of this number, counted from 1, before or after it was done."""

    def __init__(self) -> None:
        super().__init__()
        self.at, self.after, self.puts = 0, False, 0

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        self.puts += 1
        if self.puts == self.at and not self.after:
            raise Killed
        etag = super().put(key, data, if_absent=if_absent)
        if self.puts == self.at:
            raise Killed
        return etag


class Bench:
    """A sealed repository that knows the server."""

    def __init__(
        self, server: PgServer, store: Store | None = None, *, sealed: bool = True
    ) -> None:
        self.server = server
        self.secret, public = age.generate_identity()
        self.store = store or MemoryStore()
        self.repository = repository_in(self.store, (self.secret, public) if sealed else None)
        with self.access().connect() as connection:
            number = connection.value("SELECT system_identifier FROM pg_control_system()")
            major = connection.major
        self.layout = Layout("main", int(number) % (1 << 64))
        register_system(
            self.store,
            "main",
            self.layout.system_identifier,
            postgres_major=major,
            new_system=False,
            at=now(),
            by=BY,
        )

    def access(self, **more: str) -> ServerAccess:
        parameters = {"host": str(self.server.socket_dir), "port": "5432", "user": "postgres"}
        environ = {"PATH": os.environ["PATH"]}
        return ServerAccess({**parameters, "dbname": "postgres", **more}, environ)

    def dump(self, access: ServerAccess | None = None, **options: Any) -> Contents:
        wanted = DumpOptions("main", "test", BY, **{"programs": PROGRAMS, **options})
        return make_dump(self.repository, access or self.access(), wanted, progress=Silent())

    def restore(self, made: Contents, target: PgServer, **options: Any) -> LoadPlan:
        """Into another server."""
        access = self.access(host=str(target.socket_dir))
        wanted = LoadOptions(**{"programs": PROGRAMS, **options})
        plan = plan_restore(self.repository, self.layout, made, access, wanted)
        restore_dump(self.repository, self.layout, plan, access, progress=Silent())
        return plan

    def dumps(self) -> Dumps:
        return read_dumps(self.repository, self.layout)


def repository_in(store: Store, key: tuple[str, str] | None) -> Repository:
    """A new one, with the key's secret half at hand; not sealed without."""
    keys = make_key_set([key[1]], None) if key else None
    identity = create_repository(store, keys, at=now(), by=BY)
    return Repository(
        store, identity, make_keyring(identity, unlock=Unlock(key[:1] if key else ()))
    )


def repository_in_memory(*, sealed: bool) -> Repository:
    return repository_in(MemoryStore(), age.generate_identity() if sealed else None)


def now() -> str:
    return to_utc_text(datetime.now(UTC))
