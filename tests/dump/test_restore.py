"""What comes back is what was dumped: all of it, one database, some tables, another name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgkeep.dump.create_sql import labels
from pgkeep.errors import DumpRestoreFailed
from pgkeep.repository.dump_files import read_file
from tests.dump.kit import Bench
from tests.dump.site import DumpSite
from tests.servers import PgServer

SETUP = """
CREATE ROLE app LOGIN PASSWORD 'secret';
CREATE ROLE "odd ""role" NOLOGIN;
GRANT "odd ""role" TO app;
ALTER ROLE app SET work_mem = '7MB';
CREATE DATABASE orders OWNER app;
ALTER DATABASE orders SET statement_timeout = '11s';
ALTER DATABASE orders SET search_path = shop, "Odd, one", public;
ALTER DATABASE orders SET default_transaction_read_only = on;
ALTER ROLE app IN DATABASE orders SET lock_timeout = '3s';
COMMENT ON DATABASE orders IS 'it''s the shop';
REVOKE CONNECT ON DATABASE orders FROM PUBLIC;
GRANT CONNECT ON DATABASE orders TO "odd ""role";
ALTER DATABASE orders CONNECTION LIMIT 17;
"""
TABLES = """
SET default_transaction_read_only = off;
CREATE SCHEMA shop;
CREATE TABLE shop.customers (id serial PRIMARY KEY, name text NOT NULL UNIQUE);
INSERT INTO shop.customers (name) SELECT 'customer ' || n FROM generate_series(1, 500) n;
CREATE TABLE shop.invoices (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer int NOT NULL REFERENCES shop.customers, total numeric);
CREATE INDEX total_index ON shop.invoices (total);
INSERT INTO shop.invoices (customer, total) SELECT 1 + n % 500, n FROM generate_series(1, 3000) n;
SELECT lo_from_bytea(4711, 'a large object');
"""
OF_DATABASE = """
SELECT datname, pg_get_userbyid(datdba), datcollate, datctype, datlocprovider, datconnlimit,
  shobj_description(oid, 'pg_database'),
  (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM aclexplode(datacl) a
    JOIN pg_roles r ON r.oid = a.grantee WHERE r.rolname <> 'postgres') IS NOT NULL,
  (SELECT string_agg(coalesce(setrole::regrole::text, '-') || array_to_string(setconfig, ';'), '|'
    ORDER BY setrole = 0) FROM pg_db_role_setting s WHERE setdatabase = d.oid)
FROM pg_database d WHERE datname = '{}'
"""
ROLES = """
SELECT rolname, rolcanlogin, rolconfig, (SELECT array_agg(m.roleid::regrole::text)
  FROM pg_auth_members m WHERE m.member = r.oid) FROM pg_roles r WHERE rolname !~ '^pg_' ORDER BY 1
"""


def fill(server: PgServer) -> None:
    server.psql(SETUP)
    server.psql(TABLES, "orders")


def content(server: PgServer, database: str) -> str:
    return server.psql(
        "SET default_transaction_read_only = off; SELECT (SELECT count(*) FROM shop.customers), "
        "(SELECT sum(total) FROM shop.invoices), encode(lo_get(4711), 'escape'), "
        "nextval('shop.customers_id_seq')",
        database,
    )


WANTED = "500|4501500|a large object|501"


@pytest.mark.parametrize(
    ("sealed", "options"),
    [
        (True, ()),
        (False, ("--format", "directory", "--jobs", "2")),
        (True, ("--format", "plain", "--compression", "gzip:1")),
        (True, ("--format", "plain", "--compression", "none")),
    ],
    ids=["custom", "directory", "plain-gzip", "plain"],
)
def test_an_empty_server_gets_everything(
    make_site: Callable[..., DumpSite], sealed: bool, options: tuple[str, ...]
) -> None:
    site = make_site(sealed=sealed)
    fill(site.server)
    site.dump(*options)
    other = site.other()
    done = site.pgkeep("dump", "restore", **site.at(other))
    assert "Restored orders, postgres" in done.stdout
    assert other.psql(ROLES) == site.server.psql(ROLES)
    for name in ("orders", "postgres"):
        assert other.psql(OF_DATABASE.format(name)) == site.server.psql(OF_DATABASE.format(name))
    password = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'"
    assert other.psql(password) == site.server.psql(password) != ""
    assert content(other, "orders") == WANTED
    indexes = "SELECT indexname FROM pg_indexes WHERE schemaname = 'shop' ORDER BY 1"
    assert other.psql(indexes, "orders") == site.server.psql(indexes, "orders")


def test_into_the_living_server_under_a_new_name_and_single_tables(site: DumpSite) -> None:
    fill(site.server)
    site.dump()
    before = site.server.psql(ROLES)
    refused = site.pgkeep("dump", "restore", code=84)
    assert "The database 'orders' is there and holds something." in refused.stderr
    site.pgkeep("dump", "restore", "--database", "orders", "--as", "Orders back")
    assert content(site.server, "Orders back") == WANTED
    assert site.server.psql(ROLES) == before
    original = site.server.psql(OF_DATABASE.format("orders"))
    assert site.server.psql(OF_DATABASE.format("Orders back")) == original.replace(
        "orders", "Orders back", 1
    )
    # A table that somebody dropped comes back with its index, its sequence and its rows.
    site.server.psql("SET default_transaction_read_only = off; DROP TABLE shop.invoices", "orders")
    site.server.psql("ALTER DATABASE orders RESET default_transaction_read_only")
    table = ("dump", "restore", "--database", "orders", "--table", "shop.invoices")
    done = site.pgkeep(*table)
    assert "fk constraint shop.invoices" in done.stderr
    assert site.server.psql("SELECT sum(total) FROM shop.invoices", "orders") == "4501500"
    assert site.server.psql("SELECT 1 FROM pg_indexes WHERE indexname = 'total_index'", "orders")
    insert = "INSERT INTO shop.invoices (customer) VALUES (1) RETURNING id"
    assert site.server.psql(insert, "orders") == "3001"
    again = site.pgkeep(*table, code=84)
    assert "has the tables already: shop.invoices" in again.stderr
    site.pgkeep(*table, "--clean")
    assert site.server.psql("SELECT count(*) FROM shop.invoices", "orders") == "3000"


@pytest.mark.majors(18)
def test_jobs_and_clean_replace_what_is_there(site: DumpSite) -> None:
    fill(site.server)
    site.server.psql("ALTER DATABASE orders RESET default_transaction_read_only")
    site.dump()
    site.server.psql("DELETE FROM shop.invoices; SELECT lo_unlink(4711)", "orders")
    only = ("dump", "restore", "--database", "orders", "--clean")
    site.pgkeep(*only)
    assert content(site.server, "orders") == WANTED
    site.server.psql("DELETE FROM shop.invoices", "orders")
    site.pgkeep(*only, "--jobs", "2")
    assert content(site.server, "orders") == WANTED


@pytest.mark.majors(18)
def test_a_statement_that_fails_is_a_failure_and_a_living_database_stays_as_it_was(
    site: DumpSite,
) -> None:
    fill(site.server)
    site.server.psql("ALTER DATABASE orders RESET default_transaction_read_only")
    site.dump()
    # Something that the dump knows nothing of stands in the way of dropping a table.
    site.server.psql("CREATE VIEW shop.of_mine AS SELECT * FROM shop.invoices", "orders")
    site.server.psql("DELETE FROM shop.invoices WHERE id < 100", "orders")
    failed = site.pgkeep("dump", "restore", "--database", "orders", "--clean", code=85)
    assert "orders is as it was before" in failed.stderr
    assert "of_mine" in failed.stderr
    assert site.server.psql("SELECT count(*) FROM shop.invoices", "orders") == "2901"


@pytest.mark.majors(18)
def test_a_dry_run_changes_nothing(site: DumpSite) -> None:
    fill(site.server)
    site.dump()
    other = site.other()
    done = site.pgkeep("dump", "restore", "--dry-run", **site.at(other))
    assert "Nothing was changed" in done.stdout
    assert "orders will be created" in done.stdout
    assert other.psql("SELECT count(*) FROM pg_database") == "3"
    assert other.psql("SELECT count(*) FROM pg_roles WHERE rolname = 'app'") == "0"


@pytest.mark.majors(18)
def test_a_database_s_security_label_comes_back_or_is_refused_before_anything_is_loaded(
    server: PgServer,
) -> None:
    """No provider of labels comes with PostgreSQL, so one is written where the server keeps it."""
    server.psql("CREATE DATABASE shop")
    server.psql("CREATE TABLE t AS SELECT 1", "shop")
    server.psql(
        "SET allow_system_table_mods = on; INSERT INTO pg_shseclabel SELECT oid, "
        "'pg_database'::regclass, 'pro\"vider', 'it''s secret' FROM pg_database "
        "WHERE datname = 'shop'"
    )
    bench = Bench(server)
    made = bench.dump()
    assert made.facts_of("postgres")["security_labels"] == []
    label = """SECURITY LABEL FOR "pro""vider" ON DATABASE "{}" IS 'it''s secret'"""
    facts = made.facts_of("shop")
    assert labels(facts) == [label.format("shop")]
    file = made.file("create", "shop")
    assert file is not None
    pieces = read_file(bench.repository, bench.layout.dump(made.dump), file)
    assert f"{label.format('shop')};\n" in b"".join(pieces).decode().split("-- Afterwards")[0]
    with pytest.raises(DumpRestoreFailed, match='provider "pro"vider" is not loaded'):
        bench.restore(made, server, databases=("shop",), rename="back")
    assert server.psql("SELECT count(*) FROM pg_class WHERE relname = 't'", "back") == "0"
    # Of a dump that was made before they were recorded.
    del facts["security_labels"]
    assert labels(facts) == []
