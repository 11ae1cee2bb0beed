"""What does not fit is said before anything is written, with what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgkeep.restore.preflight import Here, look_here, misfits
from tests.installations import Installation
from tests.restore.site import Site


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
    return Here("x86_64", "2.36", tmp_path, tmp_path)


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
