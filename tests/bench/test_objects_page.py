"""The page on object stores shows whom it measured, and says whom it could not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from bench.objects import Measured
from bench.objects_page import report
from bench.peers import BenchError
from bench.server import clean_env
from bench.walg import find_walg, version_of

VERSIONS = {"pgkeep": "1.0", "pgBackRest": "2.60.0"}


def _page(*found: Measured, versions: dict[str, str] = VERSIONS) -> str:
    figures = [asdict(one) for one in found]
    return report(figures, machine="2 cores.", versions=versions, size=1 << 30)


def test_each_peer_has_its_seconds_and_how_pgkeep_compares() -> None:
    page = _page(
        Measured("backup", 20, 2.0, 4.0, 8.0, 25.0),
        Measured("wal-push", 20, 0.1, 0.2, 0.05),
        versions={**VERSIONS, "WAL-G": "3.0.9"},
    )
    assert "| backup | 20 ms | 2.00 s | 4.00 s | 0.50 × | 8.00 s | 0.25 × | 25 |" in page
    assert "| wal-push | 20 ms | 100 ms | 200 ms | 0.50 × | 50 ms | 2.00 × | – |" in page
    assert "WAL-G 3.0.9" in page
    assert "no `wal-g`" not in page


def test_without_walg_the_page_says_so_and_has_no_columns_of_it() -> None:
    page = _page(Measured("backup", 0, 2.0, 4.0, requests=25.0))
    assert "| backup | 0 ms | 2.00 s | 4.00 s | 0.50 × | 25 |" in page
    assert "no `wal-g` was on the machine" in page
    assert "by WAL-G's" not in page


def test_walg_is_known_by_what_it_says_of_itself(tmp_path: Path) -> None:
    program = tmp_path / "wal-g"
    program.write_text("#!/bin/sh\necho 'wal-g version v3.0.9\tdevel\tdevel\tPostgreSQL'\n")
    program.chmod(0o755)
    assert find_walg(program) == program
    assert version_of(program) == "3.0.9"
    program.write_text("#!/bin/sh\necho 'wal-g version v3.0.9\tdevel\tdevel\tMySQL'\n")
    with pytest.raises(BenchError, match="not WAL-G for PostgreSQL"):
        find_walg(program)
    program.chmod(0o644)
    with pytest.raises(BenchError, match="no program that runs"):
        find_walg(program)


def test_walg_is_found_on_the_path_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_walg(None) is None


def test_settings_of_ones_own_do_not_reach_what_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WALG_COMPRESSION_METHOD", "AWS_PROFILE", "S3_SSE", "PGBACKREST_REPO1_PATH"):
        monkeypatch.setenv(name, "mine")
    assert set(clean_env({"AWS_REGION": "here"}).values()).isdisjoint({"mine"})
