"""Clusters straight from initdb, where a test is about what initdb itself writes."""

from __future__ import annotations

from pathlib import Path

from tests.installations import Installation
from tests.server_user import run_as_server_user


def initdb(installation: Installation, pgdata: Path, *, wal_segsize_mb: int = 16) -> Path:
    """A new data directory with this segment size; the server on it is not started."""
    run_as_server_user(
        [
            installation.program("initdb"),
            *("-D", pgdata, "-U", "postgres", "-A", "trust", "-E", "UTF8"),
            *("--locale=C", "--no-sync", f"--wal-segsize={wal_segsize_mb}"),
        ]
    )
    return pgdata
