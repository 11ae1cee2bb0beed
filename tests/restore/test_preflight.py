"""What does not fit is said before anything is written, with what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgkeep.restore.here import Here, look_here
from pgkeep.restore.locales import has_locale
from pgkeep.restore.memory_here import MemoryHere
from pgkeep.restore.preflight import misfits
from tests.installations import Installation
from tests.restore.site import Site
from tests.servers import PgServer


def database(name: str, **changes: Any) -> dict[str, Any]:
    return {
        "name": name,
        "provider": "libc",
        "collate": "en_US.UTF-8",
        "actual_version": "2.36",
        **changes,
    }


SERVER: dict[str, Any] = {
    "version": "PostgreSQL 18.4 on x86_64-pc-linux-gnu, compiled by gcc",
    "libc_collation_version": "2.36",
    "databases": [
        database("app"),
        database("plain", collate="C", actual_version=None),
        database("icu", provider="icu"),
    ],
    "shared_preload_libraries": ["pg_stat_statements", "$libdir/auto_explain"],
    "extensions": [["plpgsql", "1.0"], ["postgis", "3.5"]],
}


@pytest.fixture
def here(tmp_path: Path) -> Here:
    (tmp_path / "extension").mkdir()
    for name in ("extension/plpgsql.control", "extension/postgis.control"):
        (tmp_path / name).touch()
    for name in ("pg_stat_statements.so", "auto_explain.so"):
        (tmp_path / name).touch()
    return Here("x86_64", "2.36", tmp_path, tmp_path, has_locale=lambda _: True)


def test_the_same_machine_fits(here: Here) -> None:
    assert misfits(SERVER, here) == ()
    assert misfits(SERVER, here._replace(machine="amd64")) == ()
    assert misfits({}, here) == ()
    all_odd: tuple[Any, ...] = (None, 7, "text", [None, 7, "text", [], {}])
    for odd in all_odd:
        assert misfits(dict.fromkeys(("databases", "extensions"), odd), here) == ()


@pytest.mark.parametrize("glibc", ["2.41", None])
def test_another_order_of_text_names_the_databases_and_the_cure(
    here: Here, glibc: str | None
) -> None:
    (text,) = misfits(SERVER, here._replace(glibc=glibc))
    assert "wrong in app." in text
    assert "REINDEX DATABASE" in text
    assert "REFRESH COLLATION VERSION" in text
    only_c = {**SERVER, "databases": [database("plain", collate="C", actual_version=None)]}
    assert misfits(only_c, here._replace(glibc=glibc)) == ()


def test_another_processor(here: Here) -> None:
    (text,) = misfits(SERVER, here._replace(machine="aarch64"))
    assert "written on x86_64" in text


def test_libraries_that_are_not_installed(here: Here) -> None:
    assert here.libraries is not None
    (here.libraries / "auto_explain.so").unlink()
    (here.libraries / "extension/postgis.control").unlink()
    preload, extension = misfits(SERVER, here)
    assert "loads auto_explain when it starts" in preload
    assert "uses postgis," in extension
    unknown = here._replace(libraries=None, share=None)
    assert misfits(SERVER, unknown) == ()


def test_another_icu_names_both_versions_and_the_databases(here: Here) -> None:
    words = database("words", provider="icu", locale="de", actual_version="153.112")
    server = {**SERVER, "databases": [words, database("more", provider="icu", locale="sv")]}
    assert misfits(server, here) == ()
    asked = {"de": "153.120", "sv": None}
    (text,) = misfits(server, here._replace(icu=asked.get))
    assert "then 153.112, here 153.120 (words)" in text
    assert "REINDEX DATABASE" in text
    assert misfits(server, here._replace(icu=lambda _: "153.112")) != ()
    same = {**SERVER, "databases": [words]}
    assert misfits(same, here._replace(icu=lambda _: "153.112")) == ()
    (text,) = misfits(server, here._replace(icu_missing=True))
    assert "built without ICU, which gives the order of text in words, more" in text


def test_a_locale_that_is_not_installed_keeps_people_out(here: Here) -> None:
    here = here._replace(has_locale=lambda name: name != "de_DE.UTF-8")
    german = database("app", collate="C", ctype="de_DE.UTF-8", actual_version=None)
    (text,) = misfits({**SERVER, "databases": [german]}, here)
    assert "does not have the locale de_DE.UTF-8 (of app)" in text
    assert has_locale("C")
    assert not has_locale("xx_XX.nothing") or look_here(15).glibc is None


def test_an_older_minor_version(here: Here) -> None:
    server = {**SERVER, "version_num": 170010}
    for version in (None, "17.10", "17.11", "18.1"):
        assert misfits(server, here._replace(postgres=version)) == ()
    (text,) = misfits(server, here._replace(postgres="17.2"))
    assert "PostgreSQL 17.10, and 17.2 here is older" in text


def test_memory_that_the_server_takes_when_it_starts(here: Here) -> None:
    server = {
        **SERVER,
        "shared_memory_bytes": 8 << 30,
        "huge_pages": "on",
        "dynamic_shared_memory_type": "posix",
    }
    assert misfits(server, here) == ()
    large = MemoryHere(16 << 30, 8 << 30, 9 << 30)
    assert misfits(server, here._replace(memory=large)) == ()
    small = MemoryHere(4 << 30, 64 << 20, 0)
    total, huge, dynamic = misfits(server, here._replace(memory=small))
    assert "8.0 GiB of shared memory when it starts, and this machine has 4.0 GiB" in total
    assert "vm.nr_hugepages" in huge
    assert "--shm-size" in dynamic
    other = {**server, "huge_pages": "try", "dynamic_shared_memory_type": "mmap"}
    assert len(misfits(other, here._replace(memory=small))) == 1


@pytest.mark.end_to_end
@pytest.mark.majors(15)
def test_icu_is_asked_as_the_server_asks_it(server: PgServer) -> None:
    icu = look_here(15).icu
    assert icu is not None
    rows = server.psql(
        "SELECT colliculocale || '=' || pg_collation_actual_version(oid) FROM pg_collation "
        "WHERE collprovider = 'i' AND colliculocale IN ('und', 'de', 'sv', 'de-u-co-phonebk')"
    )
    assert {row.partition("=")[0]: row.partition("=")[2] for row in rows.splitlines()} == {
        locale: icu(locale) for locale in (row.partition("=")[0] for row in rows.splitlines())
    }
    assert len(rows.splitlines()) >= 3


@pytest.mark.end_to_end
@pytest.mark.majors(15)
def test_a_plan_says_it_and_the_machine_of_the_server_fits(
    site: Site, pg_installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.server.psql("CREATE EXTENSION pg_visibility")
    site.server.psql("CREATE DATABASE sorted LOCALE 'C.UTF-8' TEMPLATE template0")
    site.backup()
    found = look_here(15)
    assert found.libraries is not None
    assert found.share is not None
    assert site.plan().warnings == ()
    other = found._replace(machine="aarch64", share=site.root)
    monkeypatch.setattr("pgkeep.restore.run.look_here", lambda _: other)
    said = " ".join(site.plan().warnings)
    assert "this is aarch64" in said
    assert "plpgsql, pg_visibility" in said or "pg_visibility, plpgsql" in said
