"""A role with fewer rights dumps what it may read, and says by name what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from pgkeep.config.dumps import DatabaseSettings
from pgkeep.dump.selection import Relation, regexes, selection_of, wanted_of
from pgkeep.errors import ConfigError
from pgkeep.postgres.access import ServerAccess
from pgkeep.postgres.connection import ServerConnection
from tests.dump.kit import Bench
from tests.dump.site import DumpSite
from tests.servers import PgServer

SETUP = """
CREATE ROLE weak LOGIN;
CREATE TABLE open_one AS SELECT 1 AS n; GRANT SELECT ON open_one TO weak;
CREATE TABLE closed AS SELECT 2 AS n;
CREATE TABLE "odd. ""name" AS SELECT 3 AS n;
CREATE TABLE numbered (id serial, t text); GRANT SELECT ON numbered TO weak;
CREATE TABLE rows_hidden AS SELECT 4 AS n; GRANT SELECT ON rows_hidden TO weak;
ALTER TABLE rows_hidden ENABLE ROW LEVEL SECURITY;
CREATE SCHEMA inner_one; CREATE TABLE inner_one.t AS SELECT 5 AS n;
GRANT SELECT ON inner_one.t TO weak;
SELECT lo_from_bytea(0, 'mine alone');
CREATE DATABASE no_entry; REVOKE CONNECT ON DATABASE no_entry FROM PUBLIC;
"""


def test_what_it_may_not_read_is_named_and_the_rest_is_dumped(server: PgServer) -> None:
    server.psql(SETUP)
    bench = Bench(server)
    made = bench.dump(bench.access(user="weak"))
    assert made.database_names == ["postgres"]
    assert {(one.database, one.what) for one in made.missing} >= {
        (None, "role passwords"),
        (None, "pg_hba.conf"),
        (None, "pg_ident.conf"),
        ("no_entry", "the database"),
        ("postgres", 'table "public"."closed"'),
        ("postgres", 'table "public"."odd. ""name"'),
        ("postgres", 'table "public"."numbered"'),
        ("postgres", 'sequence "public"."numbered_id_seq"'),
        ("postgres", 'table "public"."rows_hidden"'),
        ("postgres", 'table "inner_one"."t"'),
        ("postgres", "all 1 large objects"),
    }
    assert not [one for one in made.missing if "open_one" in one.what]
    assert [file.kind for file in made.files] == ["globals", "settings", "create", "database"]
    # A whole one for comparison: a superuser misses nothing.
    assert bench.dump().is_complete


@pytest.mark.majors(18)
def test_what_is_not_wanted_is_not_missed(server: PgServer) -> None:
    server.psql(SETUP)
    bench = Bench(server)
    weak = bench.access(user="weak")

    def missed(*options: str, **selection: Any) -> set[str]:
        made = bench.dump(
            weak,
            parts=frozenset(),
            include=("postgres",),
            extra=options,
            selection=DatabaseSettings(**selection),
        )
        return {one.what.replace('"', "").replace("public.", "") for one in made.missing}

    numbered = {"table numbered", "sequence numbered_id_seq"}
    tables = {"table closed", "table odd. name", "table rows_hidden", *numbered}
    everything = {*tables, "table inner_one.t", "all 1 large objects"}
    assert missed() == everything
    assert missed(exclude_tables=("closed", '"odd. ""name"')) == everything - {
        *("table closed", "table odd. name")
    }
    # A sequence goes with its table.
    assert missed(exclude_tables=("public.num*ed",)) == everything - numbered
    assert missed(exclude_schemas=("inner_*",)) == everything - {"table inner_one.t"}
    assert missed(schemas=("inner_one",)) == {"table inner_one.t"}
    assert missed(tables=("open_one",)) == set()
    assert missed(tables=("open_one", "CLOSED")) == {"table closed"}
    assert missed(exclude_data=("rows_hidden",)) == everything - {"table rows_hidden"}
    assert missed("-vT", "closed", "--no-blobs") == everything - {
        *("table closed", "all 1 large objects")
    }
    # What only pg_dump knows chooses further tables: then rather one too many is named.
    assert "table closed" in missed("-t", "open_one", "--table-and-children=closed")


@pytest.mark.majors(18)
def test_patterns_mean_what_they_mean_to_pg_dump(server: PgServer) -> None:
    """It is asked itself, as a superuser who can read all."""
    for schema in ("public", "shop", '"Shop two"', "hidden"):
        server.psql(
            f"CREATE SCHEMA IF NOT EXISTS {schema}; "
            f"CREATE TABLE {schema}.orders (id serial, n int GENERATED ALWAYS AS IDENTITY); "
            f'CREATE TABLE {schema}."Orders" (); CREATE TABLE {schema}."a[1]" (); '
            f'CREATE TABLE {schema}."x.y" (); CREATE TABLE {schema}."cash$" (); '
            f"CREATE TABLE {schema}.a1 ()"
        )
    server.psql("ALTER ROLE postgres SET search_path = shop, public")
    names = (
        "SELECT c.oid, n.nspname, c.relname, "
        "(SELECT refobjid FROM pg_depend d WHERE d.objid = c.oid "
        "AND d.deptype IN ('a', 'i') AND c.relkind = 'S' AND d.refclassid = 'pg_class'::regclass) "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace "
        "WHERE relkind = 'r' AND nspname !~ '^(pg_|information)'"
    )
    for options in (
        *(
            "-t orders",
            "-t ORDERS",
            '-t "Orders"',
            "-t shop.*",
            '-t "x.y"',
            "-t *rders",
            "-t or?ers",
        ),
        *("-t a[1]", '-t "a[1]"', "-t [ac]*", '-t *."Orders"', "-t (shop|public).orders"),
        *("-t postgres.shop.orders", '-t "Shop two".orders', "-t cash$", '-T "a[1]"', "-T shop.*"),
        *("-n shop", "-n s*", '-n "Shop two"', "-N shop -N public", "-n shop -t public.orders"),
        *("-N shop -t shop.orders", "-t *.orders -T hidden.*", "-n s* -N sh*p", "-T *"),
    ):
        words = tuple(options.replace("Shop two", "Shop\ttwo").split(" "))
        words = tuple(word.replace("\t", " ") for word in words)
        said = server.run("pg_dump", "-s", *words, "-d", "postgres").stdout
        theirs = {
            line.removeprefix("CREATE TABLE ").removesuffix(" (")
            for line in said.splitlines()
            if line.startswith("CREATE TABLE ")
        }
        with bench_session(server) as connection:
            relations = [Relation(*row) for row in connection.rows(names)]
            selection = selection_of(DatabaseSettings(options=words))
            oids = wanted_of(connection, relations, selection, database="postgres")
            rows = connection.rows(
                "SELECT format('%%I.%%I', nspname, relname) FROM pg_class c "
                "JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = ANY (%s)",
                ([*oids],),
            )
        assert {name for (name,) in rows} == theirs, options


def bench_session(server: PgServer) -> ServerConnection:
    return Bench(server).access().connect()


def test_patterns_become_regular_expressions() -> None:
    assert regexes("Shop.inv*") == ["^(shop)$", "^(inv.*)$"]
    assert regexes('"Shop.x"."a""b*"') == ["^(Shop\\.x)$", '^(a"b\\*)$']
    assert regexes("a?$[]") == ["^(a.\\$\\[])$"]


@pytest.mark.majors(18)
def test_the_exit_code_says_it_and_nothing_expires_then(site: DumpSite) -> None:
    site.server.psql("CREATE ROLE weak LOGIN; CREATE TABLE closed AS SELECT 1")
    whole = site.dump()
    weak = site.pgkeep("dump", "create", code=81, PGUSER="weak", PGKEEP_DUMP_KEEP="1 dumps")
    assert 'postgres: table "public"."closed" (no SELECT on it)' in weak.stderr
    names = [one["dump"] for one in site.pgkeep.json("dump", "list")["dumps"]]
    assert len(names) == 2
    assert "LACKS" in site.pgkeep("dump", "list").stdout
    # It never counts in the stead of a whole one.
    dry = site.pgkeep.json("dump", "expire", "--keep", "1 dumps", "--dry-run")
    decisions = dry["repositories"][0]["systems"][0]["decisions"]
    assert {one["dump"]: one["kept"] for one in decisions}[whole["dump"]]
    # What only a superuser has may be left out on purpose.
    site.server.psql("GRANT SELECT ON closed TO weak; GRANT pg_read_all_settings TO weak")
    enough = site.dump("--parts", "globals,settings", PGUSER="weak")
    assert enough["complete"]


@pytest.mark.parametrize(
    "name",
    ["sslpassword", "oauth_client_secret", "scram_client_key", "scram_server_key", "new_token"],
)
def test_a_secret_without_a_variable_is_refused(name: str) -> None:
    """Whether this libpq knows it or not."""
    access = ServerAccess({"host": "h", name: "hunter2"}, {})
    with pytest.raises(ConfigError, match=f"{name} cannot be handed"):
        access.conninfo("postgres")
    assert access._replace(parameters={"host": "h", name: ""}).conninfo("a b") == "dbname='a b'"


@pytest.mark.majors(18)
def test_no_password_stands_on_a_command_line_or_in_a_log(site: DumpSite) -> None:
    site.write("pgkeep.toml", '[server]\npassword = "hunter2"\nsslpassword = ""\n')
    config = str(site.pgkeep.root / "pgkeep.toml")
    done = site.pgkeep("dump", "create", "-v", "--config", config)
    assert "hunter2" not in done.stdout + done.stderr
    bench = Bench(site.server)
    access = bench.access(password="hunter2", keepalives="1")
    assert "hunter2" not in access.conninfo("postgres") + repr(access)
    assert "keepalives" in access.conninfo("postgres")
    assert access.environment()["PGPASSWORD"] == "hunter2"
