"""Any name that PostgreSQL takes, and any locale, comes back as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.dump.create_sql import split_names
from pgkeep.dump.pg_dump import stem_of
from pgkeep.dump.statements import parse_globals, split_script
from pgkeep.dump.toc import parse_list, select_tables
from pgkeep.postgres.quoting import quote_always
from tests.dump.kit import Bench
from tests.dump.site import DumpSite
from tests.servers import PgServer

NAMES = [
    *("two words", "it's", 'say "hi"', "a/b", ".hidden", "..", "größe", "Orders", "orders", "-x"),
    *("dbname=x host=y", "back\\slash", "%s%n", "database-5", "globals", "contents", "$(id)"),
]


@pytest.mark.majors(18)
def test_odd_names_of_databases_tables_and_roles(site: DumpSite) -> None:
    for name in NAMES:
        site.server.psql(f"CREATE ROLE {quote_always(f'role {name}')}")
        owner = quote_always(f"role {name}")
        site.server.psql(f"CREATE DATABASE {quote_always(name)} OWNER {owner}")
    for name in NAMES[:3]:
        table = quote_always(name)
        site.server.psql(f"CREATE SCHEMA {table}; CREATE TABLE {table}.{table} AS SELECT 7", name)
    made = site.dump("--at-once", "2")
    assert set(made["skipped"]) == {"template0", "template1"}
    stored = [file.name for file in site.files()]
    assert len({name.lower() for name in stored}) == len(stored)
    other = site.other()
    site.pgkeep("dump", "restore", **site.at(other))
    query = "SELECT datname, pg_get_userbyid(datdba) FROM pg_database ORDER BY 1"
    assert other.psql(query) == site.server.psql(query)
    for name in NAMES[:3]:
        table = quote_always(name)
        assert other.psql(f"SELECT * FROM {table}.{table}", name) == "7"


LOCALES = {
    15: ["LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk'"],
    18: ["LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8' LOCALE 'C'"],
}


def test_locale_providers_and_encodings_come_back(
    make_site: Callable[..., DumpSite], server_factory: object
) -> None:
    site = make_site()
    major = site.server.installation.major
    for number, text in enumerate(LOCALES.get(major, [])):
        site.server.psql(
            f"CREATE DATABASE odd{number} TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' {text}"
            if "LOCALE 'C'" not in text
            else f"CREATE DATABASE odd{number} TEMPLATE template0 {text}"
        )
    site.server.psql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    site.server.psql("CREATE TABLE t AS SELECT 'gr' || chr(246) || 'sse' AS word", "latin")
    site.dump()
    other = site.other()
    site.pgkeep("dump", "restore", **site.at(other))
    query = (
        "SELECT datname, pg_encoding_to_char(encoding), datlocprovider, datcollate, datctype, "
        "to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale' FROM pg_database d ORDER BY 1"
    )
    assert other.psql(query) == site.server.psql(query)
    assert other.psql("SELECT word = 'gr' || chr(246) || 'sse' FROM t", "latin") == "t"


@pytest.mark.majors(18)
def test_a_part_of_the_databases_by_pattern_and_each_by_its_own_settings(site: DumpSite) -> None:
    for name in ("shop_a", "shop_b", "shop_test", "other"):
        site.server.psql(f"CREATE DATABASE {name}")
    site.server.psql("CREATE TABLE big AS SELECT 1; CREATE TABLE small AS SELECT 1", "shop_a")
    config = site.write(
        "own.toml",
        '[databases.shop_a]\nformat = "plain"\ncompression = "none"\nexclude_data = ["big"]\n',
    )
    made = site.dump("--config", str(config), "--database", "shop_*", "--exclude", "*_test")
    formats = {file["database"]: file["format"] for file in made["files"] if file["format"]}
    assert formats == {"shop_a": "plain", "shop_b": "custom"}
    into = site.pgkeep.root / "fetched"
    site.pgkeep("dump", "fetch", "--into", into)
    text = (into / "shop_a.sql").read_text()
    assert "COPY public.small" in text
    assert "COPY public.big" not in text
    wrong = site.pgkeep("dump", "create", "--database", "nope*", code=80)
    assert "No database is called 'nope*'" in wrong.stderr
    with_templates = site.dump("--templates", "--parts", "none")
    assert "template1" in {file["database"] for file in with_templates["files"]}


@pytest.mark.majors(18)
def test_a_name_is_a_name_before_it_is_a_pattern(server: PgServer) -> None:
    for name in ("a[1]", "a1", "b?", "bb", "t1"):
        server.psql(f'CREATE DATABASE "{name}"')
    bench = Bench(server)

    def dumped(*include: str, exclude: tuple[str, ...] = ()) -> list[str]:
        made = bench.dump(parts=frozenset(), include=include, exclude=exclude)
        return made.database_names

    assert dumped("a[1]") == ["a[1]"]
    assert dumped("a*", "b?") == ["a1", "a[1]", "b?"]
    assert dumped("t[1]") == ["t1"]
    assert dumped(exclude=("a[1]", "b?", "t[1]")) == ["a1", "bb", "postgres"]


def test_a_table_is_called_by_its_name_before_by_a_pattern() -> None:
    text = "".join(
        f"{number}; 1259 {number} TABLE public {name} postgres\n"
        for number, name in enumerate(("a[1]", "a1", "t1"), start=1)
    )
    for pattern, wanted in (("a[1]", "a[1]"), ("public.a[1]", "a[1]"), ("t[1]", "t1")):
        assert select_tables(parse_list(text), [pattern]).tables == [("public", wanted)]


def test_names_of_files() -> None:
    assert stem_of("orders", 5, ()) == "orders"
    for name in (".hidden", "a/b", "größe", "globals", "Contents", "database-7", "a.b", ""):
        assert stem_of(name, 5, ()) == "database-5"
    assert stem_of("Orders", 6, {"orders"}) == "database-6"


def test_scripts_are_taken_apart_as_psql_does() -> None:
    script = (
        "-- a comment; with a semicolon\n\\restrict abc\nSET x = 1;\n"
        'CREATE ROLE "odd; ""role";\n'
        "ALTER ROLE app SET s TO E'a\\'; b', 'c;''d';\n"
        "COMMENT ON ROLE app IS 'two\nlines; -- no comment';\n"
        'GRANT "odd; ""role" TO app WITH INHERIT TRUE GRANTED BY postgres;\n'
        "CREATE TABLESPACE fast OWNER app LOCATION '/mnt/a;b';\n"
        "GRANT ALL ON TABLESPACE fast TO PUBLIC;\n\\unrestrict abc\n"
    )
    found = parse_globals(script)
    assert [one.verb for one in found] == ["CREATE", "ALTER", "COMMENT", "GRANT", "CREATE", "GRANT"]
    assert found[0].roles == ('odd; "role',)
    assert found[3].roles == ('odd; "role', "app")
    assert [one.tablespace for one in found] == [None] * 4 + ["fast"] * 2
    assert len([*split_script("SELECT $x$;$y$;$x$; SELECT 2")]) == 2


def test_lists_of_names_are_told_from_texts() -> None:
    assert split_names('shop, "Odd, one", public') == ["shop", "Odd, one", "public"]
    assert split_names('"a""b"') == ['a"b']
    assert split_names("") == []


def test_tables_come_with_what_hangs_on_them() -> None:
    text = (Path(__file__).parent / "toc.txt").read_text()
    found = select_tables(parse_list(text), ["shop.invoices"])
    assert found.tables == [("shop", "invoices")]
    kinds = [line.split(" ", 3)[3] for line in found.lines]
    assert kinds == [
        *("TABLE shop invoices postgres", "SEQUENCE shop invoices_id_seq postgres"),
        *("TABLE DATA shop invoices postgres", "SEQUENCE SET shop invoices_id_seq postgres"),
        *("CONSTRAINT shop invoices invoices_pkey postgres", "INDEX shop total_index postgres"),
    ]
    assert found.left_out == ["fk constraint shop.invoices invoices_customer_fkey"]
    both = select_tables(parse_list(text), ["shop.*"])
    assert not both.left_out
    assert "SEQUENCE OWNED BY shop customers_id_seq postgres" in " ".join(both.lines)
