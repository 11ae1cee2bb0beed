"""Every supported major is dumped by a program that fits, and dumps go to newer majors."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from pgkeep.dump.check import DumpCheckOptions, check_dumps
from pgkeep.errors import DumpRefused, ProgramMissing
from pgkeep.postgres.programs import major_of
from pgkeep.progress import Silent
from pgkeep.repository.dumps import CONTENTS, publish
from tests.dump.kit import BY, PROGRAMS, Bench
from tests.factory import ServerFactory
from tests.installations import find_installations
from tests.servers import PgServer

NEWEST = max(find_installations(), default=0)
CONTENT = "CREATE TABLE t AS SELECT generate_series(1, 100) AS n; SELECT lo_from_bytea(7, 'lo')"


@pytest.mark.every_major
def test_with_the_matching_client_and_with_a_newer_one_into_the_newest_server(
    server: PgServer,
) -> None:
    major = server.installation.major
    server.psql("CREATE ROLE app; CREATE DATABASE shop OWNER app")
    server.psql(CONTENT, "shop")
    bench = Bench(server)
    matching = bench.dump()
    assert matching.program.split(".")[0] == str(major)
    made = [matching]
    # 15 is found in its usual place, whatever else is named. Of 17 the latest minor release keeps
    # notes in column options that a pg_dump of 18 which is older than it does not leave out.
    if major not in (15, 17, NEWEST):
        made.append(bench.dump(programs=str(find_installations()[NEWEST].bin_dir)))
        assert made[-1].program.split(".")[0] == str(NEWEST)
    target = ServerFactory(find_installations()[NEWEST])
    try:
        other = target()
        for number, one in enumerate(made):
            name = f"shop{number}"
            bench.restore(one, other, databases=("shop",), rename=name)
            assert (
                other.psql("SELECT sum(n), encode(lo_get(7), 'escape') FROM t", name) == "5050|lo"
            )
    finally:
        target.close()


@pytest.mark.majors(18)
def test_what_a_beta_dumped_is_checked_and_restored(server: PgServer) -> None:
    assert [major_of(text) for text in ("19beta1", "18.4", "20devel", "16rc1")] == [19, 18, 20, 16]
    with pytest.raises(ValueError):
        major_of("beta")
    server.psql("CREATE DATABASE shop")
    server.psql(CONTENT, "shop")
    bench = Bench(server)
    made = replace(bench.dump(include=("shop",)), program=f"{server.installation.major}beta1")
    bench.store.delete([bench.layout.dump(made.dump) + CONTENTS])
    publish(bench.repository, bench.layout, made, by=BY)
    bench.restore(made, server, rename="back", databases=("shop",))
    assert server.psql("SELECT sum(n) FROM t", "back") == "5050"
    options = DumpCheckOptions("deep", {"PATH": os.environ["PATH"]}, PROGRAMS)
    found = check_dumps(bench.repository, bench.layout, options, progress=Silent())
    assert (found.read, found.problems) == ([made.dump], [])


@pytest.mark.majors(15)
def test_a_compression_that_pg_dump_does_not_know_yet_is_gzip_and_called_so(
    server: PgServer,
) -> None:
    server.psql("CREATE DATABASE shop")
    server.psql(CONTENT, "shop")
    bench = Bench(server)
    made = bench.dump(format="plain", compression="zstd:12", include=("shop",))
    file = made.file("database", "shop")
    assert file is not None
    assert (file.name, file.compression) == ("shop.sql.gz", "gzip:9")
    bench.restore(made, server, databases=("shop",), rename="back")
    assert server.psql("SELECT sum(n) FROM t", "back") == "5050"


@pytest.mark.majors(18)
def test_a_missing_program_is_named_with_what_to_install(
    server: PgServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pgkeep.postgres import programs

    monkeypatch.setattr(programs, "_USUAL", ("/usr/lib/postgresql/15/bin",))
    programs.installed.cache_clear()
    bench = Bench(server)
    access = bench.access()._replace(environ={"PATH": "/nonexistent"})
    with pytest.raises(ProgramMissing) as caught:
        bench.dump(access, programs=None)
    programs.installed.cache_clear()
    assert "No pg_dump of PostgreSQL 18 or newer" in caught.value.what
    assert "postgresql-client-18" in (caught.value.remedy or "")
    assert not bench.dumps().dumps
    assert not bench.dumps().litter


@pytest.mark.majors(18)
def test_not_into_an_older_server_nor_without_what_it_needs(server: PgServer) -> None:
    """All that is in the way is told at once, and nothing was changed."""
    older = find_installations().get(15)
    if older is None or not older.has_contrib:
        pytest.skip("PostgreSQL 15 with contrib is not installed")
    bench = Bench(server)
    server.psql("CREATE ROLE app; CREATE DATABASE shop OWNER app; CREATE ROLE stranger")
    made = bench.dump()
    factory = ServerFactory(older)
    try:
        old = factory()
        with pytest.raises(DumpRefused, match="The server is PostgreSQL 15, and the dump is of 18"):
            bench.restore(made, old)
        old.psql("CREATE EXTENSION pg_trgm")
        theirs = Bench(old)
        needy = theirs.dump()
        with pytest.raises(DumpRefused) as caught:
            theirs.restore(needy, server, with_globals=False)
        why = caught.value.why or ""
        assert "needs the extensions pg_trgm" in why
        server.psql("DROP DATABASE shop; DROP ROLE app; DROP ROLE stranger")
        # A role that has nothing to do with the database is not asked for.
        assert made.facts_of("shop")["roles"] == []
        with pytest.raises(DumpRefused, match="lacks the roles app, and"):
            bench.restore(made, server, databases=("shop",), with_globals=False)
        bench.restore(made, server, databases=("shop",), with_globals=False, ownership=False)
        owner = "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'shop'"
        assert server.psql(owner) == "postgres"
    finally:
        factory.close()


@pytest.mark.majors(18)
def test_tablespaces_are_made_where_their_directory_is(server_factory: ServerFactory) -> None:
    from tests.servers import new_directory

    server = server_factory()
    place = new_directory("space")
    server.psql(f"CREATE TABLESPACE fast LOCATION '{place}'")
    server.psql("CREATE DATABASE shop TABLESPACE fast")
    bench = Bench(server)
    made = bench.dump()
    other = server_factory()
    shutil.rmtree(place)
    with pytest.raises(DumpRefused, match="has no directory"):
        bench.restore(made, other)
    bench.restore(made, other, tablespaces=False)
    query = (
        "SELECT spcname FROM pg_database d JOIN pg_tablespace t ON t.oid = dattablespace "
        "WHERE datname = 'shop'"
    )
    assert other.psql(query) == "pg_default"
