"""A dump streams: parts in the store, nothing on disk, and age alone opens what is there."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pgkeep.dump.check import DumpCheckOptions, check_dumps
from pgkeep.dump.fetch import fetch_dump
from pgkeep.errors import DamagedObject, DirectoryNotEmpty
from pgkeep.progress import Silent
from pgkeep.repository import dump_files
from pgkeep.repository.dump_files import FileWriter, Uploads, read_file
from pgkeep.repository.dump_record import DATABASE, DumpFile
from pgkeep.seal.age_file import SEALED_CHUNK_BYTES
from pgkeep.storage import open_store
from pgkeep.storage.memory import MemoryStore
from tests.dump.kit import PROGRAMS, Bench, repository_in_memory
from tests.dump.site import DumpSite
from tests.object_stores import object_service
from tests.servers import PgServer

SMALL_PART = 2 * SEALED_CHUNK_BYTES
ROWS = "CREATE TABLE t AS SELECT n, md5(n::text) AS word FROM generate_series(1, {}) n"


@pytest.mark.majors(18)
def test_parts_joined_are_an_age_file_that_pg_restore_reads(
    make_site: Callable[..., DumpSite], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/guide/dumps-by-hand.md shows it, with nothing of pgkeep."""
    age = shutil.which("age")
    if age is None:
        pytest.skip("the program age is not installed")
    site = make_site()
    site.server.psql(ROWS.format(200000))
    bench = Bench(site.server, open_store(f"file://{site.pgkeep.root}/by-hand", create=True))
    monkeypatch.setattr(dump_files, "PART_BYTES", SMALL_PART)
    made = bench.dump()
    folder = site.pgkeep.root / "by-hand" / bench.layout.dump(made.dump)
    parts = sorted(folder.glob("postgres.dump.age.*"))
    assert len(parts) > 20
    (site.pgkeep.root / "key").write_text(bench.secret + "\n")
    sealed = b"".join(part.read_bytes() for part in parts)
    opened = subprocess.run(
        [age, "-d", "-i", site.pgkeep.root / "key"], input=sealed, capture_output=True, check=True
    ).stdout
    other = site.other()
    file = site.write("postgres.dump", "")
    file.write_bytes(opened)
    other.run("pg_restore", "--exit-on-error", "-d", "postgres", file)
    assert other.psql("SELECT count(*), max(word) FROM t") == site.server.psql(
        "SELECT count(*), max(word) FROM t"
    )


@pytest.mark.majors(18)
def test_nothing_is_needed_on_local_disk(site: DumpSite) -> None:
    """No scratch space, no temporary folder, none that could be written to."""
    site.server.psql(ROWS.format(1000))
    nowhere: dict[str, Any] = {"TMPDIR": "/nonexistent", "PGKEEP_SCRATCH": "/nonexistent"}
    site.dump(**nowhere)
    other = site.other()
    site.pgkeep("dump", "restore", **nowhere, **site.at(other))
    assert other.psql("SELECT count(*) FROM t") == "1000"


@pytest.mark.majors(18)
def test_the_directory_format_leaves_nothing_in_scratch_space(site: DumpSite) -> None:
    for number in range(6):
        site.server.psql(ROWS.replace(" t ", f" t{number} ").format(20000))
    scratch = site.pgkeep.root / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    made = site.dump("--jobs", "2", PGKEEP_SCRATCH=str(scratch))
    file = next(one for one in made["files"] if one["kind"] == "database")
    assert (file["format"], file["name"]) == ("directory", "postgres.tar")
    assert not list(scratch.iterdir())
    other = site.other()
    site.pgkeep("dump", "restore", "--jobs", "2", PGKEEP_SCRATCH=str(scratch), **site.at(other))
    assert other.psql("SELECT count(*) FROM t5") == "20000"
    assert not list(scratch.iterdir())
    site.pgkeep("verify", "--deep", PGKEEP_SCRATCH=str(scratch))


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("size", [0, 1, SMALL_PART - 1, SMALL_PART, SMALL_PART + 1, 700_001])
def test_what_is_read_is_what_was_written(size: int, sealed: bool) -> None:
    repository = repository_in_memory(sealed=sealed)
    data = os.urandom(size)
    with Uploads(repository, "main/1/dumps/d/", part_bytes=SMALL_PART) as uploads:
        writer = FileWriter(uploads, "x.dump")
        for at in range(0, size, 100_003):
            writer.write(data[at : at + 100_003])
        parts = writer.finish()
    file = DumpFile("x.dump", DATABASE, size, parts)
    assert b"".join(map(bytes, read_file(repository, "main/1/dumps/d/", file))) == data
    names = [part.name for part in parts]
    stem = "x.dump.age" if sealed else "x.dump"
    expected = [f"{stem}.{n:05d}" for n in range(1, len(parts) + 1)]
    assert names == (expected if len(parts) > 1 else [stem])
    assert file.size_bytes >= size


@pytest.mark.majors(18)
def test_damage_is_found_before_it_is_restored_and_by_verify(
    server: PgServer, tmp_path: Path
) -> None:
    server.psql(ROWS.format(1000))
    store = MemoryStore()
    bench = Bench(server, store)
    made = bench.dump()
    key = bench.layout.dump(made.dump) + "postgres.dump.age"
    good = store.get(key)
    environ = {"PATH": os.environ["PATH"]}

    def found(level: str) -> list[str]:
        options = DumpCheckOptions(level, environ, PROGRAMS)
        check = check_dumps(bench.repository, bench.layout, options, progress=Silent())
        return [f"{one[0].rpartition('/')[2]}: {one[1]}" for one in check.problems]

    for level in ("quick", "scrub", "deep"):
        assert found(level) == []
    bad = bytearray(good)
    bad[len(bad) // 2] ^= 1
    store.put(key, bad)
    assert found("quick") == []
    for level in ("scrub", "deep"):
        assert found(level) == ["postgres.dump.age: its bytes are not those that were stored"]
    with pytest.raises(DamagedObject):
        fetch_dump(bench.repository, bench.layout, made, tmp_path / "a", progress=Silent())
    assert not (tmp_path / "a" / "postgres.dump").exists()
    store.put(key, good[:-1])
    size = len(good)
    assert found("quick") == [f"postgres.dump.age: it has {size - 1} bytes, and not {size}"]
    store.delete([key])
    assert found("quick") == ["postgres.dump.age: it is missing"]
    store.put(key, good)
    fetch_dump(bench.repository, bench.layout, made, tmp_path / "b", progress=Silent())
    with pytest.raises(DirectoryNotEmpty):
        fetch_dump(bench.repository, bench.layout, made, tmp_path / "b", progress=Silent())


@pytest.mark.majors(18)
def test_into_an_object_store_and_back(site: DumpSite, request: pytest.FixtureRequest) -> None:
    service = object_service(request, "moto")
    place = service.new_place()
    site.pgkeep.environ.update({**service.environ, "PGKEEP_REPO": place.url})
    site.pgkeep("init", "--recipient", site.pgkeep.public)
    site.server.psql(ROWS.format(1000))
    site.dump()
    other = site.other()
    site.pgkeep("dump", "restore", **site.at(other))
    assert other.psql("SELECT count(*) FROM t") == "1000"
    site.pgkeep("verify", "--deep")
    site.pgkeep("dump", "delete", site.pgkeep.json("dump", "list")["dumps"][0]["dump"])
    assert site.pgkeep.json("dump", "list")["dumps"] == []
