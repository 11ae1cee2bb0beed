"""Some databases are restored and others left out, and what is left out is said and dropped."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg import OperationalError

from pgkeep.errors import UsageError
from pgkeep.postgres.relation import database_of
from pgkeep.postgres.standby import Standby
from pgkeep.progress import Silent
from pgkeep.repository.manifest import DATA_DIRECTORY, FileRow
from pgkeep.restore import steering, target, unfinished
from pgkeep.restore.checking import check_restored
from pgkeep.restore.databases import Selection, choose
from pgkeep.restore.run import RestoreReport
from tests.restore.site import Site
from tests.restore.verifybackup import verify_backup
from tests.server_user import server_user
from tests.servers import PgServer

ROWS = 60_000


def row(path: str, size: int = 8192) -> FileRow:
    return FileRow(path, DATA_DIRECTORY, size, 0o600, 0, 0, 0, 0, 0, 0, 0, 0, 0)


FILES = [
    row("global/1262"),
    *(row(f"base/{oid}/112") for oid in (1, 4, 5, 100, 101, 103)),
    row("pg_tblspc/900/PG_18_1/101/7", 1 << 20),
]
SERVER: dict[str, Any] = {
    "databases": [
        {"oid": 1, "name": "template1", "is_template": True},
        {"oid": 4, "name": "template0", "is_template": True},
        {"oid": 5, "name": "postgres"},
        {"oid": 100, "name": "shop"},
        {"oid": 101, "name": "old"},
        {"oid": 102, "name": "gone", "is_template": False},
    ]
}


def left_out(server: dict[str, Any] = SERVER, **options: list[str]) -> list[str]:
    return [one.name for one in choose(FILES, server, **options).left_out]


def test_paths_are_known_to_be_a_databases() -> None:
    assert database_of("base/16384") == database_of("base/16384/PG_VERSION") == 16384
    assert database_of("pg_tblspc/900/PG_18_202506291/101/7.1") == 101
    for other in ("global/1262", "base", "pg_tblspc/900", "pg_wal/1", "base/pgsql_tmp/x"):
        assert database_of(other) is None


def test_templates_postgres_and_what_has_no_name_are_restored_whatever_is_named() -> None:
    assert left_out(only=["shop"]) == ["old"]
    assert left_out(only=["shop"], exclude=["postgres"]) == ["old", "postgres"]
    assert left_out(exclude=["old", "100"]) == ["old", "shop"]
    assert left_out(exclude=["103"]) == ["103"]
    assert choose(FILES, SERVER, exclude=["old"]).left_out_bytes == (1 << 20) + 8192


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"only": ["nowhere"]}, "It has: 103, old, postgres, shop"),
        ({"exclude": ["gone"]}, "no such database"),
        ({"exclude": ["template0"]}, "cannot be left out"),
        ({"only": ["shop"], "exclude": ["shop"]}, "both"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        left_out(**options)


def test_a_backup_without_names_goes_by_oids() -> None:
    """A template that is none of initdb's is not known as such in older backups."""
    assert left_out({}, exclude=["100"]) == ["100"]
    with pytest.raises(UsageError, match="--exclude-database 16384"):
        left_out({}, only=["100"])
    older = {"databases": [{"oid": 1, "name": "template1"}, {"oid": 100, "name": "shop"}]}
    with pytest.raises(UsageError, match="cannot be left out"):
        left_out(older, exclude=["template1"])


# -- on servers -----------------------------------------------------------------------------------


@pytest.fixture
def three(make_site: Callable[..., Site]) -> Site:
    """Databases shop, books and old, which lies in a tablespace; a backup, and changes to each.

    Without checksums VACUUM marks pages as all-visible and logs no image of them, and a hash
    index logs its bucket's number: recovery asks for pages that a left-out database lacks.
    """
    site = make_site(checksums=False, conf={"wal_log_hints": "off", "autovacuum": "off"})
    server = site.server
    place = site.root / "fast"
    place.mkdir()
    server.psql(f"CREATE TABLESPACE fast LOCATION '{server_user().own(place)}'")
    for name, option in (("shop", ""), ("books", ""), ("old", "TABLESPACE fast")):
        server.psql(f"CREATE DATABASE {name} {option}")
        server.psql(
            f"CREATE TABLE t AS SELECT i, md5(i::text) m FROM generate_series(1, {ROWS}) i; "
            "CREATE INDEX ON t USING hash (i); SELECT count(*) FROM t",
            name,
        )
    server.psql("CHECKPOINT")
    site.backup()
    for name in ("shop", "books", "old"):
        server.psql("VACUUM t; UPDATE t SET m = 'new' WHERE i = 7", name)
        server.psql("INSERT INTO t SELECT i, 'more' FROM generate_series(-20000, -1) i", name)
        server.psql("CREATE TABLE made AS SELECT generate_series(1, 1000) i; VACUUM FULL t", name)
    server.psql("SELECT pg_create_restore_point('now')")
    for name in ("shop", "books", "old"):
        server.psql("DROP TABLE t", name)
    server.wait_archived()
    server.stop()
    return site


def blocks(path: Path) -> int:
    return sum(file.lstat().st_blocks * 512 for file in path.rglob("*"))


def drop_left_out(server: PgServer, report: RestoreReport) -> str:
    """Run the file that the closing line names, in this server."""
    words = shlex.split(report.drop)
    return server.run("psql", "-X", "-d", "postgres", "-f", words[-1]).stderr


def assert_shop_alone(site: Site, report: RestoreReport) -> None:
    server = site.recovered(report)
    assert server.psql("SELECT count(*), count(*) FILTER (WHERE m = 'new') FROM t", "shop") == (
        f"{ROWS + 20000}|1"
    )
    for name in ("books", "old"):
        with pytest.raises(AssertionError, match="relation mapping file"):
            server.psql("SELECT 1", name)
    assert drop_left_out(server, report) == ""
    assert server.psql("SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database") == (
        "postgres shop template0 template1"
    )
    server.stop()
    server.start()
    assert server.psql("SHOW ignore_invalid_pages") == "off"
    assert server.psql("SELECT count(*) FROM made", "shop") == "1000"
    server.stop()


@pytest.mark.end_to_end
@pytest.mark.parametrize("wal", ["copied", "fetch"])
def test_one_of_three_databases_comes_back_as_it_was_at_a_moment(
    three: Site, wal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = target.at_name("now")
    report = three.restore(only_databases=("shop",), target=wanted, wal=wal)
    into = report.plan.options.into
    verify_backup(three.server.installation, into)
    assert [one.name for one in report.plan.left_out] == ["books", "old"]
    sizes = {one.name: one.size_bytes for one in report.plan.left_out}
    assert min(sizes.values()) > 10 << 20
    books = next(one.oid for one in report.plan.left_out if one.name == "books")
    assert blocks(into / "base" / str(books)) < 1 << 20
    whole = report.plan.resolution.backup.head.database_bytes
    assert report.plan.write_bytes == whole - sum(sizes.values())
    assert report.written_bytes <= report.plan.write_bytes
    if wal == "copied":  # recovered by the check, so that the server is started without the setting
        monkeypatch.setenv("PATH", f"{three.server.installation.bin_dir}:{os.environ['PATH']}")
        plan = replace(report.plan, options=replace(report.plan.options, check="quick"))
        checked = check_restored(plan, report.server_facts, progress=Silent())
        assert checked.problems == ()
        assert [look.database for look in checked.looks] == ["postgres", "shop", "template1"]
    assert_shop_alone(three, report)


@pytest.mark.end_to_end
@pytest.mark.majors(15)
def test_recovery_would_stop_at_the_pages_that_are_not_there(
    three: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting that is written is needed, and not just for safety."""
    monkeypatch.setattr(steering, "_IGNORE", "wal_log_hints")
    report = three.restore(exclude_databases=("books", "old"), wal="copied")
    server = three.factory.adopt(report.plan.options.into)

    def recover() -> None:
        server.start()
        server.wait_recovery_end()

    with pytest.raises((AssertionError, OperationalError)):
        recover()
    assert "references to invalid pages" in server.log_text()


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_an_unfinished_restore_is_gone_on_with_and_a_cluster_is_not_emptied(
    three: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(unfinished, "unmark", interrupted)
        with pytest.raises(KeyboardInterrupt):
            three.restore(wal="copied")
    into = three.root / "back"
    report = three.restore(only_databases=("shop",), wal="copied", target=target.at_name("now"))
    assert report.plan.goes_on
    verify_backup(three.server.installation, into)
    assert_shop_alone(three, report)
    with pytest.raises(UsageError, match="would be emptied"):
        three.plan(only_databases=("shop",), delta=True)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_the_file_that_drops_does_nothing_in_another_server(three: Site) -> None:
    report = three.restore(only_databases=("shop",), wal="copied")
    original = three.server.start()
    assert "Nothing was dropped" in drop_left_out(original, report)
    assert original.psql("SELECT count(*) FROM pg_database WHERE NOT datistemplate") == "4"
    assert os.path.basename(shlex.split(report.drop)[-1]) == steering.DROP_FILE  # noqa: PTH119


@pytest.mark.end_to_end
@pytest.mark.majors(18)
@pytest.mark.parametrize("end", ["\n", "\r"])
def test_the_name_of_a_database_is_no_command(site: Site, end: str) -> None:
    """psql ends a comment at either, and whoever may make databases may call one as he likes."""
    proof = site.server.socket_dir / "proof"
    site.server.psql(f'CREATE DATABASE "x{end}\\! touch {proof} #{end}y"')
    site.backup()
    report = site.restore(only_databases=("postgres",), wal="copied")
    server = site.recovered(report)
    drop_left_out(server, report)
    assert server.psql("SELECT count(*) FROM pg_database WHERE NOT datistemplate") == "1"
    assert not proof.exists()


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_neither_a_standby_nor_the_original_lacks_databases(site: Site) -> None:
    site.backup()
    for options in ({"standby": Standby()}, {"continue_archiving": True}):
        with pytest.raises(UsageError, match="databases"):
            site.plan(only_databases=("postgres",), **options)
    assert site.plan(only_databases=("postgres",)).databases == Selection(
        site.plan(only_databases=("postgres",)).databases.restored,  # type: ignore[union-attr]
        (),
    )
