"""A role with fewer rights dumps what it may read, and says by name what it may not."""

from __future__ import annotations

import pytest

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
