"""Keep a server busy while something is done to it.

pgbench writes rows; beside it a thread may create, rewrite, truncate and drop tables, since
what comes and goes in the data directory is what a backup trips over.
"""

from __future__ import annotations

import signal
import subprocess
import threading
from pathlib import Path
from typing import Any, Self

import psycopg

from tests.server_user import popen_as_server_user
from tests.servers import PgServer

# Each is its own transaction; {n} is the number of the round.
_CHURN = (
    "CREATE TABLE churn_{n} AS SELECT i, repeat('x', i % 500) AS filler"
    " FROM generate_series(1, 3000) i",
    "CREATE INDEX ON churn_{n} (i)",
    "CREATE UNLOGGED TABLE churn_unlogged_{n} AS SELECT i FROM generate_series(1, 500) i",
    "DELETE FROM churn_{n} WHERE i % 3 = 0",
    "VACUUM FULL churn_{n}",
    "ALTER TABLE churn_{n} ADD COLUMN added int DEFAULT 7",
    "TRUNCATE churn_{n}",
    "INSERT INTO churn_{n} SELECT i, 'again' FROM generate_series(1, 1000) i",
    "DROP TABLE churn_unlogged_{n}",
)
# So many tables of the churn stay; older ones are dropped.
_KEPT_ROUNDS = 5


def prepare_pgbench(server: PgServer, *, scale: int = 1, dbname: str = "postgres") -> None:
    """Make pgbench's tables; ``scale`` 1 is 100,000 accounts and about 16 MB."""
    server.run("pgbench", "-i", "-q", "-s", str(scale), dbname)


class Load:
    """pgbench in the background, and with ``ddl`` the churn; use it in a ``with``.

    ``rate`` is in transactions a second, as fast as it goes by default.
    """

    def __init__(
        self, server: PgServer, *, clients: int = 2, rate: float | None = None, ddl: bool = False
    ) -> None:
        self._server = server
        self._clients = clients
        self._rate = rate
        self._ddl = ddl
        self._pgbench: subprocess.Popen[Any] | None = None
        self._log = Path(server.root, f"pgbench-{id(self):x}.log")
        self._stopping = threading.Event()
        self._churn = threading.Thread(target=self._run_churn, name="churn", daemon=True)
        self._churn_error: BaseException | None = None
        self.churn_rounds = 0

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        """Start it, and return once a first transaction of pgbench is committed."""
        before = self.transactions()
        rate = [] if self._rate is None else ["-R", str(self._rate)]
        with open(self._log, "wb") as log:
            self._pgbench = popen_as_server_user(
                [
                    self._server.program("pgbench"),
                    *("-n", "-c", str(self._clients), "-j", "1", "-T", "86400"),
                    *rate,
                ],
                env=self._server.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self._ddl:
            self._churn.start()
        self.wait_transactions(1, since=before)
        return self

    def stop(self) -> None:
        """End both; raises AssertionError if one had ended by itself while the server ran."""
        self._stopping.set()
        if self._churn.is_alive():
            self._churn.join(60)
        self._stop_pgbench()
        if self._churn_error is not None and self._server.running:
            raise AssertionError("the DDL churn broke off") from self._churn_error

    def transactions(self) -> int:
        """How many transactions pgbench has committed on this server in all."""
        return int(self._server.psql("SELECT count(*) FROM pgbench_history"))

    def wait_transactions(self, number: int, *, since: int | None = None) -> None:
        """Wait until pgbench has committed so many more."""
        start = self.transactions() if since is None else since
        self._server.wait_for(
            lambda: self._checked_transactions() >= start + number,
            what=f"{number} more transactions",
        )

    def wait_churn_rounds(self, number: int) -> None:
        """Wait until the churn has gone through so many rounds in all."""
        self._server.wait_for(
            lambda: self._checked_rounds() >= number, what=f"{number} rounds of churn"
        )

    def _checked_transactions(self) -> int:
        self._check()
        return self.transactions()

    def _checked_rounds(self) -> int:
        self._check()
        return self.churn_rounds

    def _check(self) -> None:
        assert self._pgbench is not None
        assert self._churn_error is None, f"the DDL churn broke off: {self._churn_error}"
        assert self._pgbench.poll() is None, f"pgbench ended: {self._log.read_text()}"

    def _stop_pgbench(self) -> None:
        if self._pgbench is None:
            return
        ended_before = self._pgbench.poll() is not None
        if not ended_before:
            self._pgbench.send_signal(signal.SIGKILL)
        self._pgbench.wait()
        self._pgbench = None
        if self._server.running:
            assert not ended_before, f"pgbench ended: {self._log.read_text()}"
            self._wait_disconnected()

    def _wait_disconnected(self) -> None:
        """Nothing is committed any more once the sessions of pgbench are gone."""
        self._server.wait_for(
            "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'pgbench')",
            what="pgbench's sessions end",
        )

    def _run_churn(self) -> None:
        try:
            with self._server.connect() as connection:
                while not self._stopping.is_set():
                    self._churn_round(connection)
        except psycopg.Error as error:
            self._churn_error = error

    def _churn_round(self, connection: psycopg.Connection) -> None:
        number = self.churn_rounds
        for statement in _CHURN:
            connection.execute(statement.format(n=number).encode())
            if self._stopping.is_set():
                return
        if number >= _KEPT_ROUNDS:
            connection.execute(f"DROP TABLE churn_{number - _KEPT_ROUNDS}".encode())
        self.churn_rounds += 1
