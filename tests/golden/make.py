"""Make the golden repositories of the present format, once: ``python -m tests.golden.make``.

A repository that was made stays as it is: every later pgkeep has to restore it. A new format gets a
folder of its own beside the old ones. The keys in them are no secrets.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from pgkeep.seal.envelope import FORMAT_VERSION
from tests.backup.site import Site
from tests.digest import cluster_digest
from tests.factory import ServerFactory
from tests.installations import find_installations
from tests.servers import PgServer

FOLDER = Path(__file__).parent
SEALING = {15: "none", 18: "age"}
CHANGES = (
    """CREATE TABLE kept AS SELECT i, md5(i::text) AS word FROM generate_series(1, 4000) i;
       CREATE INDEX ON kept (word);
       CREATE TABLE changing AS SELECT i, 0 AS round FROM generate_series(1, 9000) i;
       CREATE TABLE emptied AS SELECT i FROM generate_series(1, 2000) i;
       CREATE TABLE dropped AS SELECT i FROM generate_series(1, 2000) i;
       CREATE SEQUENCE numbers; SELECT nextval('numbers');
       VACUUM (FREEZE, ANALYZE)""",
    """UPDATE changing SET round = 1 WHERE i % 7 = 0; TRUNCATE emptied; DROP TABLE dropped;
       CREATE TABLE added AS SELECT i FROM generate_series(1, 500) i;
       CREATE DATABASE second""",
    """DELETE FROM changing WHERE i % 11 = 0; VACUUM changing;
       UPDATE kept SET word = 'x' WHERE i = 7;
       ALTER TABLE added ADD COLUMN more text DEFAULT 'y'; CREATE ROLE somebody""",
)


def main() -> int:
    """Make the repositories of all majors in ``SEALING`` that are here and have none yet."""
    place = FOLDER / f"format-{FORMAT_VERSION}"
    for major, sealing in SEALING.items():
        folder = place / f"postgresql-{major}-{sealing}"
        if folder.exists():
            say(f"{folder.name} is there already, and stays")
        else:
            make(major, sealing, folder)
    return 0


def make(major: int, sealing: str, folder: Path) -> None:
    """One repository: a full backup, two increments, their WAL, and some more."""
    factory = ServerFactory(find_installations()[major])
    try:
        site = Site(factory, sealing=sealing, wal_segsize_mb=1, conf={"autovacuum": "off"})
        expected: dict[str, Any] = {"major": major, "cluster": "main", "backups": {}}
        for change in CHANGES:
            apply(site.server, change)
            digest = cluster_digest(site.server)
            name = site.backup(level=19).head.backup
            expected["backups"][name] = digest
            wait_for_another_second(site.server, name)
        apply(site.server, "INSERT INTO added SELECT 1000; SELECT pg_switch_wal()")
        expected["latest"] = cluster_digest(site.server)
        site.server.stop()  # the last segment is archived by then
        folder.mkdir(parents=True)
        shutil.copytree(site.repository_path, folder / "repository")
        shutil.rmtree(folder / "repository" / ".pgkeep", ignore_errors=True)
        if sealing == "age":
            (folder / "identity.txt").write_text(site.identity + "\n")
        (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    finally:
        factory.close()
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    say(f"{folder.name}: {size >> 10} KiB")


def apply(server: PgServer, statements: str) -> None:
    """One statement after the other, each in a transaction of its own."""
    for statement in statements.split(";"):
        server.psql(statement.strip())


def wait_for_another_second(server: PgServer, name: str) -> None:
    """Until a backup that began now would have another name."""
    now = "SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD\"T\"HH24MISS\"Z\"')"
    server.wait_for(lambda: server.psql(now) > name, what="the next second")


def say(text: str) -> None:
    """One line for whoever runs this."""
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
