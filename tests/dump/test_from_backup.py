"""A dump of a base backup asks nothing of production, and can be of a moment that has passed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dump.kit import PROGRAMS
from tests.program import pgkeep_program
from tests.restore.conftest import make_site as make_site
from tests.restore.site import Site
from tests.server_user import run_as_server_user, scrubbed_environment


@pytest.mark.majors(18)
def test_a_moment_of_a_backup_is_dumped_while_production_is_down(
    make_site: Callable[..., Site],
) -> None:
    site = make_site()
    server = site.server
    server.psql("CREATE TABLE t AS SELECT 1 AS n")
    site.backup()
    server.psql("INSERT INTO t VALUES (2)")
    moment = server.psql("SELECT clock_timestamp()")
    server.psql("SELECT pg_sleep(0.1); DELETE FROM t")
    server.wait_archived()
    server.stop()
    site.give_away()
    scratch = site.root / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    environ = {
        "PGKEEP_CONFIG": str(site.config),
        "PGKEEP_PG_BIN": PROGRAMS,
        "PGKEEP_SCRATCH": str(scratch),
    }

    def pgkeep(*arguments: str | Path) -> str:
        env = scrubbed_environment(environ)
        return run_as_server_user([pgkeep_program(), *arguments], env=env).stdout

    for when, wanted in ((("--time", moment), "3"), ((), "")):
        pgkeep("dump", "create", "--from-backup", *when)
        into = site.root / f"fetched{wanted}"
        pgkeep("dump", "fetch", "--into", into)
        server.start()
        server.psql("DROP DATABASE IF EXISTS back")
        server.psql("CREATE DATABASE back")
        into.chmod(0o755)
        server.run("pg_restore", "-d", "back", into / "postgres.dump")
        assert server.psql("SELECT sum(n) FROM t", "back") == wanted
        server.stop()
    shown = pgkeep("dump", "show")
    assert "from" in shown
    assert "backup 2" in shown
    assert not list(scratch.iterdir())


@pytest.mark.majors(18)
def test_a_recovery_that_stops_before_its_end_makes_no_dump(make_site: Callable[..., Site]) -> None:
    """It pauses where the original was given more connections than the backup knows of."""
    site = make_site()
    server = site.server
    server.psql("CREATE TABLE t AS SELECT 1 AS n")
    site.backup()
    server.configure({"max_connections": 77})
    server.restart()
    server.psql("INSERT INTO t VALUES (2)")
    server.wait_archived()
    site.give_away()
    env = scrubbed_environment({"PGKEEP_CONFIG": str(site.config), "PGKEEP_PG_BIN": PROGRAMS})
    words: list[str | Path] = [pgkeep_program(), "dump", "create", "--from-backup"]
    done = run_as_server_user(words, env=env, check=False)
    assert done.returncode == 25, done.stdout + done.stderr
    assert "max_connections = 40 is a lower setting" in done.stderr
