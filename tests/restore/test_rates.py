"""How long a restore takes is said from what was measured, or not at all."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pgkeep.restore import rates
from pgkeep.restore.rates import Measured, Rates, estimate, read_rates, remember_rates
from tests.restore.site import Site

GIB = 1 << 30
AT = datetime(2026, 11, 20, 14, 3, 7, tzinfo=UTC)


def test_nothing_measured_nothing_said() -> None:
    sizes = {"write_bytes": GIB, "wal_bytes": GIB}
    assert estimate(None, **sizes, copied=True) is None
    assert estimate(Rates(AT), **sizes, copied=True) is None
    assert estimate(Rates(AT, Measured(1 << 20, 0.1)), **sizes, copied=True) is None


def test_wal_counts_where_it_is_copied_and_recovery_where_it_was_seen() -> None:
    measured = Rates(AT, Measured(GIB, 10))
    fetched = estimate(measured, write_bytes=4 * GIB, wal_bytes=GIB, copied=False)
    assert fetched is not None
    assert (fetched.seconds, fetched.recovery_seconds, fetched.measured) == (40, None, AT)
    measured = Rates(AT, Measured(GIB, 10), Measured(GIB, 20), Measured(GIB, 30))
    copied = estimate(measured, write_bytes=4 * GIB, wal_bytes=GIB, copied=True)
    assert copied is not None
    assert (copied.seconds, copied.recovery_seconds) == (60, 30)


def test_what_is_remembered_of_each_is_the_last_that_says_something(tmp_path: Path) -> None:
    path = tmp_path / "rates" / "r.json"
    assert read_rates(path) is None
    remember_rates(path, Rates(AT, Measured(1 << 20, 1)))
    assert read_rates(path) is None
    first = Rates(AT, Measured(GIB, 10), Measured(), Measured(GIB, 5))
    remember_rates(path, first)
    assert read_rates(path) == first
    later = AT + timedelta(days=1)
    remember_rates(path, Rates(later, Measured(GIB, 4), Measured(GIB, 3)))
    assert read_rates(path) == Rates(later, Measured(GIB, 4), Measured(GIB, 3), Measured(GIB, 5))
    for odd in (b"", b"[]", b"{}", b'{"at": 7}', b"\xff"):
        path.write_bytes(odd)
        assert read_rates(path) is None


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_a_restore_measures_itself(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "LEAST_BYTES", 1 << 20)
    site.backup()
    assert site.plan().estimate is None
    report = site.restore(wal="copied")
    found = report.rates
    assert found is not None
    assert found.files.size_bytes >= report.written_bytes > 0
    assert found.wal_copy.size_bytes == report.plan.wal_bytes
    again = estimate(
        found, write_bytes=report.plan.write_bytes, wal_bytes=report.plan.wal_bytes, copied=True
    )
    assert again is not None
    assert 0 < again.seconds <= report.seconds + 1
    assert site.restore("back", delta=True).rates is None
