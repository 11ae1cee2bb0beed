"""Dumps are kept by age, number, day, week, month and year; those of dropped databases, too."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from pgkeep.config.keeping import parse_policy
from pgkeep.dump.expire import decide_dumps
from pgkeep.dump.lock import lock_dump
from pgkeep.repository.dump_record import Missing
from pgkeep.repository.dumps import StoredDump
from pgkeep.repository.layout import Layout
from pgkeep.storage.object_lock import ObjectLock
from pgkeep.units import to_utc_text
from tests.dump.kit import repository_in_memory
from tests.dump.made_up import CONTENTS
from tests.dump.site import DumpSite

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def dump(days: float, *, complete: bool = True) -> StoredDump:
    ended = NOW - timedelta(days=days)
    contents = replace(
        CONTENTS,
        dump=f"{ended:%Y%m%dT%H%M%SZ}",
        ended=to_utc_text(ended),
        missing=() if complete else (Missing("a", "b", "c"),),
    )
    return StoredDump(contents, ended)


def kept(policy: str, dumps: list[StoredDump]) -> list[float]:
    decisions = decide_dumps(dumps, parse_policy(policy), now=NOW)
    return [
        (NOW - one.contents.moment) / timedelta(days=1)
        for one, decision in zip(dumps, decisions, strict=True)
        if decision.is_kept
    ]


def test_by_age_and_by_number() -> None:
    dumps = [dump(days) for days in (40, 20, 10, 5, 1)]
    assert kept("7 days, 1 dumps", dumps) == [5, 1]
    assert kept("1 days, 3 dumps", dumps) == [10, 5, 1]
    assert kept("90 days", dumps) == [40, 20, 10, 5, 1]
    # Nobody dumps any more: what there is stays.
    assert kept("7 days, 2 dumps", [dump(400), dump(300), dump(200)]) == [300, 200]


def test_what_was_narrowed_or_comes_from_a_backup_takes_nobodys_place() -> None:
    def narrowed(days: float, **changes: Any) -> StoredDump:
        one = dump(days)
        return one._replace(contents=replace(one.contents, **changes))

    whole = [dump(days) for days in (70, 40, 35)]
    some = [narrowed(days, facts={"scope": "databases tiny"}) for days in (33, 32)]
    past = [narrowed(31, source="backup 20261101T000000Z")]
    assert kept("30 days, 2 dumps", [*whole, *some, *past]) == [40, 35, 33, 32, 31]
    assert kept("30 days, 1 dumps", [*whole, *some, *past]) == [35, 32, 31]
    assert kept("0 days, 1 dumps, 12 monthly", [*whole, *some]) == [70, 35, 32]


def test_by_days_weeks_months_and_years() -> None:
    dumps = [dump(days) for days in range(800, 0, -1)]
    assert kept("0 days, 1 dumps, 3 daily", dumps) == [3, 2, 1]
    assert len(kept("1 dumps, 4 weekly, 12 monthly, 2 yearly", dumps)) in range(15, 19)


def test_what_lacks_something_never_counts_instead_of_a_whole_one() -> None:
    dumps = [dump(50), dump(2, complete=False), dump(1, complete=False)]
    assert kept("7 days, 1 dumps", dumps) == [50, 2, 1]
    dumps = [dump(50), dump(20, complete=False), dump(10)]
    assert kept("7 days, 1 dumps", dumps) == [10]


def test_a_dump_is_locked_with_what_opens_it() -> None:
    repository = repository_in_memory(sealed=True)
    layout = Layout("main", 1)
    folder = layout.dump("20261126T020004Z")
    for name in ("begun", "postgres.dump.age", "contents"):
        repository.store.put(folder + name, b"x")
    asked: dict[str, set[str]] = {}

    class Lock:
        def extend(self, prefix: str, keys: set[str], **_: datetime) -> int:
            assert all(key.startswith(prefix) for key in keys)
            asked[prefix] = keys
            return len(keys)

    count = lock_dump(repository, layout, "20261126T020004Z", cast("ObjectLock", Lock()), days=7)
    assert asked[folder] == {f"{folder}{name}" for name in ("begun", "postgres.dump.age")}
    # They say that all the rest is locked.
    assert [*asked][-1] == f"{folder}contents"
    assert asked[f"{folder}contents"] == {f"{folder}contents"}
    assert "pgkeep/repository" in asked["pgkeep/"]
    assert count == sum(map(len, asked.values()))


@pytest.mark.majors(18)
def test_expiry_follows_a_success_is_explained_and_covers_dropped_databases(
    site: DumpSite,
) -> None:
    site.server.psql("CREATE DATABASE dropped_one")
    keep: dict[str, Any] = {"PGKEEP_DUMP_KEEP": "2 dumps"}
    first = site.dump("--no-expire", **keep)
    site.server.psql("DROP DATABASE dropped_one")
    second = site.dump(**keep)
    dry = site.pgkeep("dump", "expire", "--dry-run", "--keep", "1 dumps")
    assert "1 would be deleted" in dry.stdout
    assert f"{first['dump']}   expires" in dry.stdout
    assert len(site.pgkeep.json("dump", "list")["dumps"]) == 2
    third = site.dump(**keep)
    listed = site.pgkeep.json("dump", "list")
    assert [one["dump"] for one in listed["dumps"]] == [second["dump"], third["dump"]]
    assert not [path for path in site.files() if "dropped_one" in path.name]
    assert not [path for path in site.files() if first["dump"] in str(path)]
    # A failure deletes nothing, whatever the policy says.
    site.pgkeep(
        "dump",
        "create",
        code=80,
        PGKEEP_DUMP_KEEP="1 dumps",
        PGKEEP_DUMP_OPTIONS="--no-such-option",
    )
    assert len(site.pgkeep.json("dump", "list")["dumps"]) == 2
    missing = site.pgkeep("dump", "delete", "2020", code=83)
    assert "There is no dump '2020'" in missing.stderr
    site.pgkeep("dump", "delete", second["dump"])
    assert "There is no dump" in site.pgkeep("dump", "show", second["dump"], code=83).stderr
