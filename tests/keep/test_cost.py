"""What ``list --cost`` counts is what is stored and asked for; what it foretells follows from the
policy."""

from __future__ import annotations

import os
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgkeep.cli.costs import costs_of
from pgkeep.config.keeping import parse_policy
from pgkeep.config.prices import Prices, parse_prices
from pgkeep.keep.cost import (
    BACKUP_READS,
    BACKUP_WRITES,
    READS_FOR_EACH_KEPT,
    WAL_READS,
    WAL_WRITES,
    Ahead,
    Kept,
    Requests,
    Usage,
    look_ahead,
    measure,
    requests_a_month,
    requests_price,
    storage_price,
)
from pgkeep.repository.system import register_system
from pgkeep.storage.interface import ObjectInfo
from pgkeep.storage.local import LocalStore
from pgkeep.storage.memory import MemoryStore
from tests.cli.kit import Pgkeep
from tests.matrix.rows import Stages
from tests.repository.kit import (
    AT,
    BY,
    LAYOUT,
    SYSTEM,
    head,
    make_repository,
    put_backup,
    put_segment,
)
from tests.server_user import server_user

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DAY = timedelta(days=1)
GIB = 1 << 30


def daily(days: int, *, whole: int = 100 * GIB, added: int = 2 * GIB) -> list[Kept]:
    """A backup each day, the oldest of all pages."""
    return [
        Kept(NOW - age * DAY, whole, None if age == days - 1 else added, True, False)
        for age in reversed(range(days))
    ]


def listing(*, segments_a_day: int = 100, segment: int = 4 << 20, days: int = 10) -> list:
    """WAL of the last days, 40 packs, and a manifest."""
    step = DAY / segments_a_day
    wal = [
        ObjectInfo(f"{LAYOUT.wal}{number:024X}", segment, NOW - number * step, "")
        for number in range(segments_a_day * days)
    ]
    packs = [ObjectInfo(f"{LAYOUT.packs}a/{n}", 32 << 20, NOW - 8 * DAY, "") for n in range(40)]
    return [*wal, *packs, ObjectInfo(LAYOUT.manifest("x"), 5000, NOW, "")]


def usage_of(kept: list[Kept]) -> Usage:
    return measure(listing(), LAYOUT, kept, since=NOW - 30 * DAY, now=NOW)


def ahead(kept: list[Kept], policy: str, *, grace: timedelta = timedelta(0)) -> list[Ahead]:
    return look_ahead(usage_of(kept), kept, parse_policy(policy), grace=grace, now=NOW)


def test_the_pace_is_that_of_the_last_week_and_the_sizes_are_of_all() -> None:
    usage = usage_of(daily(9))
    assert usage.measured == 7 * DAY
    assert usage.wal_files_a_day == pytest.approx(100, abs=0.5)
    assert usage.wal_bytes_a_day == pytest.approx(100 * (4 << 20), rel=0.01)
    assert (usage.packs, usage.wal_files) == (40, 1000)
    assert usage.wal_bytes == 1000 * (4 << 20)
    assert (usage.pack_bytes, usage.other_bytes) == (40 * (32 << 20), 5000)
    assert (usage.interval, usage.added_bytes) == (DAY, 2 * GIB)


def test_wal_from_before_the_first_backup_makes_no_pace() -> None:
    usage = measure(listing(), LAYOUT, daily(1), since=NOW - 2 * DAY, now=NOW)
    assert usage.measured == 2 * DAY
    assert usage.wal_files_a_day == pytest.approx(100, abs=1)
    assert (usage.interval, usage.added_bytes) == (None, None)


def test_backups_that_are_kept_for_months_do_not_count_for_the_pace() -> None:
    old = [Kept(NOW - months * 30 * DAY, GIB, GIB, True, False) for months in (9, 8, 7, 6, 5)]
    assert usage_of([*old, *daily(3)]).interval == DAY
    rare = [Kept(NOW - days * DAY, GIB, GIB, True, False) for days in (60, 30)]
    assert usage_of(rare).interval == 30 * DAY


def test_a_window_is_full_after_its_days_and_grows_no_more() -> None:
    one, three, twelve = ahead(daily(9), "7 days, 2 backups")
    assert one.stored_bytes == three.stored_bytes == twelve.stored_bytes
    # Eight backups: seven within the window, and the one that it begins with.
    assert one.backups == 8
    wal = usage_of(daily(9)).wal_bytes_a_day * 7
    assert one.stored_bytes == pytest.approx(100 * GIB + 7 * 2 * GIB + wal, rel=0.01)


def test_monthly_backups_add_up_and_none_holds_more_than_a_whole_one() -> None:
    kept = daily(9)
    (*_, plain) = ahead(kept, "7 days")
    one, three, twelve = ahead(kept, "7 days, 12 monthly")
    assert one.stored_bytes < three.stored_bytes < twelve.stored_bytes
    # Of a month 60 GiB have changed.
    assert twelve.stored_bytes - plain.stored_bytes == pytest.approx(11 * 60 * GIB, rel=0.05)
    busy = daily(9, added=9 * GIB)
    (*_, bounded) = ahead(busy, "7 days, 12 monthly")
    (*_, without) = ahead(busy, "7 days")
    assert bounded.stored_bytes - without.stored_bytes == pytest.approx(11 * 100 * GIB, rel=0.05)


def test_what_is_in_the_trash_takes_room() -> None:
    (at_once, *_), (later, *_) = ahead(daily(9), "7 days"), ahead(daily(9), "7 days", grace=DAY * 3)
    assert later.backups == at_once.backups
    assert later.stored_bytes - at_once.stored_bytes == pytest.approx(3 * 2 * GIB, rel=0.01)


def test_a_held_backup_stays() -> None:
    kept = [Kept(NOW - 90 * DAY, 100 * GIB, None, True, True), *daily(9)]
    (one, *_), (without, *_) = ahead(kept, "7 days"), ahead(daily(9), "7 days")
    assert one.backups == without.backups + 1
    assert one.stored_bytes - without.stored_bytes == pytest.approx(100 * GIB, rel=0.01)


def test_nothing_is_foretold_from_one_backup() -> None:
    assert ahead(daily(1), "7 days") == []
    assert ahead([], "7 days") == []


def test_prices_are_a_sentence() -> None:
    prices = parse_prices("0.023 storage, 0.005 writes, 0.0004 reads, 0.09 out, usd")
    assert prices == Prices(0.023, 0.005, 0.0004, 0.09, "USD")
    assert parse_prices("6 storage, €") == Prices(storage=6, currency="€")
    for wrong in ("", "USD", "0.02", "0.02 disk", "1 reads, 2 reads", "-1 reads", "1 reads, a, b"):
        with pytest.raises(ValueError):
            parse_prices(wrong)
    assert storage_price(2 * GIB, prices) == pytest.approx(0.046)
    assert requests_price(Requests(2000, 10000), prices) == pytest.approx(0.014)


def test_requests_are_those_that_commands_make(tmp_path: Path) -> None:
    """Whoever changes what a command asks of its store finds the estimate here."""
    stage = Stages(tmp_path).backed.copy(tmp_path / "stage")

    def asked() -> tuple[int, int]:
        calls: Counter[str] = Counter()
        for (method, key), count in stage.store.calls.items():
            calls[method] += 0 if "/packs/" in key and method == "put" else count
        stage.store.calls.clear()
        writes = calls["put"] + calls["replace"] + calls["list"]
        return writes, calls["get"] + calls["head"] + calls["get_range"] + calls["get_ranges"]

    stage.cluster.next_segment(ready=True)
    stage.must("wal-push", f"pg_wal/{stage.cluster.next_segment()}")
    asked()
    stage.must("wal-push", f"pg_wal/{stage.cluster.next_segment()}")
    assert asked() == (WAL_WRITES, WAL_READS)
    for seed in (3, 4):
        stage.cluster.change(seed)
        stage.must("backup")
        writes, reads = asked()
        kept = 1 + seed - 2
        assert 0.8 * BACKUP_WRITES <= writes <= 1.1 * BACKUP_WRITES
        guess = BACKUP_READS + READS_FOR_EACH_KEPT * kept
        assert 0.6 * guess <= reads <= 1.2 * guess


def test_requests_grow_with_the_pace() -> None:
    usage = usage_of(daily(9))
    found = requests_a_month(usage, backups=8)
    assert found.writes == pytest.approx(
        3000 * WAL_WRITES + 30 * (BACKUP_WRITES + 64 + 2), rel=0.02
    )
    assert found.reads > 3000 * WAL_READS


class Endless(MemoryStore):
    """As many objects as a large cluster has."""

    def list(self, prefix: str = "", *, start_after: str | None = None) -> Iterator[ObjectInfo]:
        for number in range(100_000):
            key = f"{LAYOUT.wal}{number:024X}"
            if key.startswith(prefix):
                yield ObjectInfo(key, 4 << 20, NOW - number * timedelta(minutes=1), "")


def test_what_is_counted_is_not_held() -> None:
    view = SimpleNamespace(
        repository=SimpleNamespace(store=Endless()), layout=LAYOUT, backups=(), windows=()
    )
    settings = SimpleNamespace(keep_grace=0, keep=parse_policy("7 days"), prices=None, mirrors={})
    tracemalloc.start()
    try:
        found = costs_of(cast("Any", view), cast("Any", settings), now=NOW)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (found.usage.wal_files, found.usage.measured) == (100_000, 7 * DAY)
    assert peak < 1 << 20


@pytest.fixture
def pgkeep(tmp_path: Path) -> Pgkeep:
    """Nine days of backups of 100 GiB, by the clock of a store that is a directory."""
    pgkeep = Pgkeep()
    store = LocalStore(pgkeep.repository, create=True)
    repository, _ = make_repository(tmp_path, store=store)
    register_system(store, "main", SYSTEM, postgres_major=18, new_system=True, at=AT, by=BY)
    now = datetime.now(UTC)
    for number, age in enumerate(range(8, -1, -1)):
        moment = now - age * DAY - timedelta(hours=1)
        segment = 3 + number
        put_segment(repository, 1, segment)
        at = f"{moment:%Y-%m-%dT%H:%M:%S}.000000Z"
        sizes = {"stored_bytes": 100 * GIB, "added_bytes": 2 * GIB}
        parent = {"kind": "incremental", "parent": "x"} if number else {}
        facts: dict[str, Any] = {"started": at, "ended": at, **sizes, **parent}
        put_backup(
            repository,
            head(
                f"{moment:%Y%m%dT%H%M%SZ}",
                f"0/{segment:X}00028",
                f"0/{segment:X}00100",
                **facts,
            ),
        )
        for path in pgkeep.repository.rglob("*"):
            if path.stat().st_mtime > now.timestamp() - 60:
                os.utime(path, (moment.timestamp(), moment.timestamp()))
    for path in (pgkeep.repository, *pgkeep.repository.rglob("*")):
        server_user().own(path)
    return pgkeep


def test_list_shows_quantities_and_with_prices_what_they_come_to(pgkeep: Pgkeep) -> None:
    plain = pgkeep("list", "--cost").stdout
    assert "What it takes, by the last 7 days" in plain
    assert "one every day, which adds 2.0 GiB" in plain
    assert "a restore  reads 100 GiB" in plain
    assert "  in 12 months   8         116 GiB" in plain
    assert "--prices '" in plain
    document = pgkeep.json("list", "--cost")["cost"]
    assert document["months"][0]["backups"] == 8
    assert "now" not in document
    assert "a_month" not in document["months"][0]

    prices = "0.02 storage, 0.005 writes, 0.0004 reads, 0.09 out, USD"
    priced = pgkeep("list", "--cost", "--prices", prices).stdout
    assert f"Prices: {prices}" in priced
    assert "a month (USD)" in priced
    document = pgkeep.json("list", "--cost", PGKEEP_PRICES=prices)["cost"]
    last = document["months"][-1]
    assert last["storage"] == pytest.approx(last["stored_bytes"] / GIB * 0.02, abs=0.0001)
    assert last["a_month"] == pytest.approx(last["storage"] + last["requests"], abs=0.0002)
    assert document["restore"] == pytest.approx(9)
    done = pgkeep("list", "--cost", "--prices", "cheap", code=None)
    assert done.returncode
    assert "for example 0.023 storage" in done.stderr
