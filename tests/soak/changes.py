"""Random changes of what a cluster holds. Each leaves it at rest: nothing is open or half done."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.servers import PgServer

SPACE = "beside"


class Changes:
    """Changes of one cluster, which goes over to another server at a failover.

    What it remembers it takes from its own history, never from the server, so that the same seed
    makes the same changes. Hence every statement holds wherever the cluster was put back to.
    """

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._number = 0
        self._tables: list[str] = []
        self._databases: list[str] = []

    def prepare(self, server: PgServer) -> None:
        """What is there from the beginning."""
        server.psql(
            "CREATE TABLE marks (what text); CREATE SEQUENCE numbers; "
            "CREATE UNLOGGED TABLE gone AS SELECT 1 AS a"
        )
        server.psql(f"SET allow_in_place_tablespaces = on; CREATE TABLESPACE {SPACE} LOCATION ''")

    def some(self, server: PgServer) -> list[str]:
        """Make a few; returns their names."""
        done = []
        for _ in range(self._chance.randint(1, 5)):
            change = self._chance.choice(self._kinds())
            change(server)
            done.append(change.__name__.strip("_"))
        return done

    def _kinds(self) -> list[Callable[[PgServer], None]]:
        kinds: list[Callable[[PgServer], None]] = [
            self._create,
            self._create,
            self._large_object,
            self._checkpoint,
            self._database,
        ]
        if self._tables:
            kinds += [self._insert, self._insert, self._update, self._update, self._delete]
            kinds += [self._truncate, self._drop, self._index, self._vacuum, self._rewrite]
            kinds += [self._move, self._alter, self._view]
        if self._databases:
            kinds.append(self._drop_database)
        return kinds

    def _table(self) -> str:
        return self._chance.choice(self._tables)

    def _create(self, server: PgServer) -> None:
        self._number += 1
        name, rows = f"t{self._number}", self._chance.choice([0, 1, 300, 20_000])
        kind = self._chance.choice(["", "", "", "UNLOGGED"])
        server.psql(
            f"CREATE {kind} TABLE {name} AS SELECT i, md5(i::text) AS filler "
            f"FROM generate_series(1, {rows}) i"
        )
        self._tables.append(name)

    def _insert(self, server: PgServer) -> None:
        rows, width = self._chance.randint(1, 5000), self._chance.choice([1, 30, 3000])
        server.psql(
            f"INSERT INTO {self._table()} SELECT i, repeat(md5(i::text), {width}) "
            f"FROM generate_series(1, {rows // width + 1}) i"
        )

    def _update(self, server: PgServer) -> None:
        every = self._chance.choice([1, 7, 500])
        server.psql(f"UPDATE {self._table()} SET filler = reverse(filler) WHERE i % {every} = 0")

    def _delete(self, server: PgServer) -> None:
        server.psql(f"DELETE FROM {self._table()} WHERE i % {self._chance.choice([2, 50])} = 1")

    def _truncate(self, server: PgServer) -> None:
        server.psql(f"TRUNCATE {self._table()}")

    def _drop(self, server: PgServer) -> None:
        name = self._table()
        self._tables.remove(name)
        server.psql(f"DROP TABLE {name} CASCADE")

    def _index(self, server: PgServer) -> None:
        method = self._chance.choice(["btree", "hash", "brin"])
        server.psql(f"CREATE INDEX ON {self._table()} USING {method} (i)")

    def _vacuum(self, server: PgServer) -> None:
        options = self._chance.choice(["", "(FREEZE)", "(FULL)"])
        server.psql(f"VACUUM {options} {self._table()}")

    def _rewrite(self, server: PgServer) -> None:
        server.psql(f"REINDEX TABLE {self._table()}")

    def _move(self, server: PgServer) -> None:
        space = self._chance.choice([SPACE, "pg_default"])
        server.psql(f"ALTER TABLE {self._table()} SET TABLESPACE {space}")

    def _alter(self, server: PgServer) -> None:
        self._number += 1
        table = self._table()
        what = self._chance.choice(
            [f"ADD c{self._number} int DEFAULT {self._number}", "SET UNLOGGED", "SET LOGGED"]
        )
        server.psql(f"ALTER TABLE {table} {what}")

    def _view(self, server: PgServer) -> None:
        self._number += 1
        server.psql(
            f"CREATE MATERIALIZED VIEW v{self._number} AS SELECT count(*) FROM {self._table()}"
        )

    def _large_object(self, server: PgServer) -> None:
        server.psql(f"SELECT lo_from_bytea(0, decode(repeat('ab', {self._number + 9}), 'hex'))")

    def _checkpoint(self, server: PgServer) -> None:
        server.psql("CHECKPOINT")

    def _database(self, server: PgServer) -> None:
        self._number += 1
        name, strategy = f"d{self._number}", self._chance.choice(["WAL_LOG", "FILE_COPY"])
        server.psql(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY {strategy}")
        self._databases.append(name)

    def _drop_database(self, server: PgServer) -> None:
        name = self._chance.choice(self._databases)
        self._databases.remove(name)
        server.psql(f"DROP DATABASE {name} WITH (FORCE)")
