"""Copying dumps to a mirror: what expired there stays away, and what is deleted meanwhile is never
there in part."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from pgkeep.config.keeping import parse_policy
from pgkeep.dump.expire import expire_dumps
from pgkeep.dump.mirror import DumpCopies, copy_dump, copy_dumps
from pgkeep.errors import DamagedObject, NoSuchDump
from pgkeep.progress import Silent
from pgkeep.repository.dump_record import Contents
from pgkeep.repository.dumps import delete_dumps, publish, read_dumps
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from tests.dump.kit import BY
from tests.dump.made_up import LAYOUT, NOW, PARTS, PlacedStore, place, put, two


def names(repository: Repository) -> list[str]:
    """The dumps that are listed, each of which has to be whole."""
    found = read_dumps(repository, LAYOUT)
    there = {info.key for info in repository.store.list(LAYOUT.dumps)}
    for one in found.dumps:
        assert {f"{LAYOUT.dump(one.id)}{part}" for part in PARTS} <= there, f"{one.id} in part"
    return [one.id for one in found.dumps]


def copied(one: Repository, other: Repository, keep: str = "30 days, 2 dumps") -> DumpCopies:
    return copy_dumps([one], other, [LAYOUT], parse_policy(keep))


def test_what_expired_in_the_target_is_not_brought_back() -> None:
    main, second = two()
    old = [put(days, main, second) for days in (50, 45, 40)]
    new = [put(days, main, second) for days in (3, 2)]
    missed = put(1, main)
    policy = parse_policy("30 days, 2 dumps")
    expire_dumps(second, [LAYOUT], policy, by=BY, progress=Silent())
    assert names(second) == new
    found = copied(main, second)
    assert names(second) == [*new, missed]
    assert [one.dump for one in found.copied] == [missed]
    assert found.left == old
    # Another policy would keep them, and so they are copied.
    assert copied(main, second, "90 days").left == []
    assert names(second) == names(main)


def test_a_dump_that_was_missed_counts_from_when_the_others_got_it() -> None:
    """In the target it is new, and would be kept for a whole window more."""
    main, second = two()
    missed = put(45, main)
    for days in (3, 2):
        put(days, main, second)
    assert copied(main, second).left == [missed]
    kept = "30 days, 2 dumps, 12 monthly"
    assert copied(main, second, kept).left == []
    assert missed in names(second)


def test_a_place_without_any_dump_gets_all() -> None:
    main, second = two()
    for days in (400, 300, 50, 2, 1):
        put(days, main)
    assert copied(main, second).left == []
    assert names(second) == names(main)


def test_dumps_of_an_earlier_system_stay_away_when_the_present_one_has_enough() -> None:
    main, second = two()
    earlier = Layout("main", 9)
    old = put(50, main, second)
    now = [put(days, main, second) for days in (2, 1)]
    for one in (main, second):
        # As if the oldest were of the system before.
        contents = read_dumps(one, LAYOUT).dumps[0].contents
        delete_dumps(one.store, LAYOUT, [old])
        if one is main:
            place(one).now = NOW - timedelta(days=50)
            publish(one, earlier, replace(contents, system_identifier="9", files=()), by=BY)
            place(one).now = NOW
    policy = parse_policy("30 days, 2 dumps")
    assert copy_dumps([main], second, [earlier, LAYOUT], policy).left == [old]
    assert names(second) == now
    delete_dumps(second.store, LAYOUT, now[:1])
    assert [one.dump for one in copy_dumps([main], second, [earlier, LAYOUT], policy).copied] == [
        *(old, now[0])
    ]


@pytest.mark.parametrize("method", ["get", "list"])
def test_a_dump_that_is_deleted_in_the_source_meanwhile_is_not_there_in_part(method: str) -> None:
    """At every step of the copy."""
    step = 0
    while True:
        step += 1
        main, second = two()
        name = put(1, main)
        seen: list[str] = []

        def delete(
            what: str,
            key: str,
            seen: list[str] = seen,
            main: Repository = main,
            step: int = step,
            name: str = name,
        ) -> None:
            if what == method and name in key:
                seen.append(key)
                if len(seen) == step:
                    delete_dumps(main.store, LAYOUT, [name])

        place(main).before = delete
        try:
            copy_dump(main.store, second.store, LAYOUT, name)
            is_copied = True
        except NoSuchDump:
            is_copied = False
        assert names(second) == ([name] if is_copied else [])
        if len(seen) < step:
            break
        # For copy as a whole that is nothing to speak of.
        assert step > 1 or copied(main, second).problems == []
    assert step > 2


def test_a_deletion_in_the_target_at_any_step_leaves_the_dump_whole_or_not_listed() -> None:
    """It is interrupted by a whole copy before each of its steps, and the other way round."""
    for method in ("delete", "list"):
        for step in range(1, 12):
            main, second = two()
            name = put(1, main, second)
            calls: list[str] = []

            def copy(
                what: str,
                key: str,
                calls: list[str] = calls,
                step: int = step,
                method: str = method,
                both: tuple[Repository, Repository] = (main, second),
                name: str = name,
            ) -> None:
                if what == method and name in key:
                    calls.append(key)
                    if len(calls) == step:
                        copy_dump(both[0].store, both[1].store, LAYOUT, name)

            place(second).before = copy
            delete_dumps(second.store, LAYOUT, [name])
            names(second)
    for step in range(1, 12):
        main, second = two()
        name = put(1, main, second)
        second.store.delete([LAYOUT.dump(name) + "contents"])
        calls = []

        def delete(
            what: str,
            key: str,
            calls: list[str] = calls,
            step: int = step,
            second: Repository = second,
            name: str = name,
        ) -> None:
            if what in ("put", "list") and name in key:
                calls.append(key)
                if len(calls) == step:
                    delete_dumps(second.store, LAYOUT, [name])

        place(second).before = delete
        try:
            copy_dump(main.store, second.store, LAYOUT, name)
        except NoSuchDump:
            assert names(second) == []
        else:
            assert names(second) == [name]


def test_a_part_that_is_damaged_comes_from_the_next_source_or_not_at_all() -> None:
    main, second = two()
    name = put(1, main, second)
    part = LAYOUT.dump(name) + "postgres.dump.00002"
    main.store.put(part, b"part 7")
    third = main._replace(store=PlacedStore())
    policy = parse_policy("2 dumps")
    found = copy_dumps([main, second], third, [LAYOUT], policy)
    assert ([one.dump for one in found.copied], found.problems) == ([name], [])
    assert third.store.get(part) == PARTS["postgres.dump.00002"]
    fourth = main._replace(store=PlacedStore())
    found = copy_dumps([main], fourth, [LAYOUT], policy)
    assert names(fourth) == []
    assert [dump for dump, _ in found.problems] == [name]
    with pytest.raises(DamagedObject):
        copy_dump(main.store, fourth.store, LAYOUT, name, contents=_contents(main))
    main.store.delete([part])
    assert [dump for dump, _ in copy_dumps([main], fourth, [LAYOUT], policy).problems] == [name]
    assert names(fourth) == []


def _contents(repository: Repository) -> Contents:
    return read_dumps(repository, LAYOUT).dumps[0].contents
