"""Servers by the dozen: made on demand by a test, ended and removed after it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests.installations import Installation
from tests.servers import PgServer


class ServerFactory:
    """Makes servers of one installation, and ends and removes them after the test."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._servers: list[PgServer] = []

    def __call__(self, **options: Any) -> PgServer:
        """A new running server; options are those of ``PgServer.create``."""
        return self.create(**options).start()

    def create(self, **options: Any) -> PgServer:
        """A new cluster, not started."""
        return self._remember(PgServer.create(self.installation, **options))

    def adopt(self, pgdata: Path) -> PgServer:
        """A server on an existing directory, not started."""
        return self._remember(PgServer.adopt(self.installation, pgdata))

    def logs(self) -> list[tuple[str, str]]:
        """The end of each server's log with a title, for the report of a failed test."""
        return [
            (f"log of server {number}, {server.pgdata}", server.log_tail(100))
            for number, server in enumerate(self._servers, start=1)
        ]

    def close(self) -> None:
        """End all of them and remove what they left."""
        for server in reversed(self._servers):
            server.close()
            shutil.rmtree(server.root, ignore_errors=True)

    def _remember(self, server: PgServer) -> PgServer:
        self._servers.append(server)
        return server
