"""A quota of processors bounds how many workers there are, wherever it is set."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgkeep.config.cores import available_cores


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))


def cores(root: Path, *, own: str, cpu_max: str | None = None) -> int:
    if cpu_max is not None:
        (root / "cpu.max").write_text(cpu_max)
    (root / "own").write_text(own)
    return available_cores(root=str(root), own=str(root / "own"))


def test_without_a_quota_all_of_the_affinity_counts(tmp_path: Path) -> None:
    assert available_cores(root=str(tmp_path / "none"), own=str(tmp_path / "none")) == 16
    assert cores(tmp_path, cpu_max="max 100000\n", own="0::/\n") == 16


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("200000 100000", 2), ("150000 100000", 2), ("1000 100000", 1), ("9999999 100000", 16)],
)
def test_a_container_has_its_quota_at_the_root(tmp_path: Path, quota: str, expected: int) -> None:
    assert cores(tmp_path, cpu_max=f"{quota}\n", own="0::/\n") == expected


def test_a_unit_has_it_below_and_that_of_its_slice_counts(tmp_path: Path) -> None:
    own = "0::/system.slice/pgkeep.service\n"
    inner = tmp_path / "system.slice/pgkeep.service"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("300000 100000\n")
    assert cores(tmp_path, own=own) == 3
    (inner.parent / "cpu.max").write_text("200000 100000\n")
    assert cores(tmp_path, own=own) == 2


def test_the_first_version_of_cgroups_is_known_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("400000\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path, own="4:cpu,cpuacct:/\n") == 4
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text("-1\n")
    assert cores(tmp_path, own="4:cpu,cpuacct:/\n") == 16


def test_nonsense_is_no_bound(tmp_path: Path) -> None:
    assert cores(tmp_path, cpu_max="100000 0\n", own="garbage\n0::/../..\n") == 16
