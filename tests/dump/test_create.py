"""A dump is one thing with everything in it, and what is stored is what pg_dump wrote."""

from __future__ import annotations

from tests.dump.site import DumpSite


def test_a_dump_is_one_line_in_the_list_and_names_all_it_holds(site: DumpSite) -> None:
    site.server.psql("CREATE ROLE app PASSWORD 'secret'; CREATE DATABASE orders OWNER app")
    site.server.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n", "orders")
    made = site.dump("--note", "first")
    assert made["complete"]
    names = [file["name"] for file in made["files"]]
    assert names == [
        *("globals.sql", "settings.conf", "pg_hba.conf", "pg_ident.conf"),
        *("orders.create.sql", "postgres.create.sql", "orders.dump", "postgres.dump"),
    ]
    listed = site.pgkeep.json("dump", "list")
    assert [one["dump"] for one in listed["dumps"]] == [made["dump"]]
    assert listed["dumps"][0]["databases"] == ["orders", "postgres"]
    stored = {path.name for path in site.files()}
    assert stored == {*(f"{name}.age" for name in names), "begun", "contents"}
