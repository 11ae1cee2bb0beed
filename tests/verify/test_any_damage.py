"""Whatever happens to whichever object: verify names it, a restore yields the very bytes or
refuses, and the next backup is whole again."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pgkeep.errors import PgkeepError
from pgkeep.repository.checks import DEEP, QUICK, SCRUB
from pgkeep.repository.layout import KEYS, numbered, systems
from pgkeep.verify.root_records import look_at_root
from tests.backup.format_reader import ReadBackup
from tests.repository.kit import LAYOUT
from tests.verify.kit import keys
from tests.verify.world import World, damage, make_world

ENVELOPES = (*("packs", "manifests", "manifests-copy", "partials", "wal", "history", "checks"),)
RECORDS = ("pins", "voids", "marks", "admin")
NEEDED = ("packs", "manifests", "manifests-copy", "history")
DAMAGES = ("flipped", "truncated", "missing", "swapped", "replayed")
SEEDS = range(2)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "sealed"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """It is never changed: each test damages a copy."""
    return make_world(tmp_path_factory.mktemp("world"), sealed=request.param)


def test_the_world_is_sound_and_has_all_kinds(world: World) -> None:
    for kind in (*ENVELOPES, *RECORDS):
        assert world.keys(kind), kind
    for level in (QUICK, SCRUB, DEEP):
        copy = world.copy()
        assert copy.chain.check(level).problems == []


def is_needed(world: World, key: str, kind: str) -> bool:
    """Whether somebody misses it when it is gone."""
    if kind == "packs":
        return any(key in packs for packs in needed_packs(world).values())
    if kind == "wal":
        return key.endswith(("1" + "0" * 15 + "3", "4", "5")) and len(key.split("/")[-1]) == 24
    return kind in NEEDED


def needed_packs(world: World) -> dict[str, set[str]]:
    """The packs of each backup, as a stranger reads its manifest."""
    return {name: packs_of(world.chain.read(name)) for name in world.chain.made}


def packs_of(backup: ReadBackup) -> set[str]:
    rows = backup._packs.values()
    return {LAYOUT.pack(row["attempt"].hex(), row["number"]) for row in rows}


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ENVELOPES)
def test_a_check_names_it(world: World, kind: str, how: str) -> None:
    seen = 0
    for seed in SEEDS:
        chance = random.Random(f"{kind} {how} {seed}")
        for key in world.keys(kind):
            copy = world.copy()
            wrong = damage(copy, key, how, chance=chance)
            if wrong is None or (how == "missing" and not is_needed(world, key, kind)):
                continue
            report = copy.chain.check(QUICK if how == "missing" else SCRUB)
            told = {one.partition(":")[0] for one in report.notes} | keys(report)
            needed = {one for one in wrong if is_needed(world, one, kind) or kind != "packs"}
            assert wrong <= told, (key, how, seed)
            assert needed <= keys(report), (key, how, seed)
            seen += 1
    assert seen or (how == "missing" and kind in ("partials", "checks"))


@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_check_names_a_damaged_record(world: World, kind: str, how: str) -> None:
    chance = random.Random(f"{kind} {how}")
    for key in world.keys(kind):
        for _ in SEEDS:
            copy = world.copy()
            damage(copy, key, how, chance=chance)
            assert keys(copy.chain.check(SCRUB)) == {key}


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("pins", LAYOUT.pin("ee" * 16, 1)),
        ("voids", LAYOUT.void("20261118T000000Z")),
        ("pins", LAYOUT.void("20261118T000000Z")),
        ("pins", numbered(LAYOUT.marks, 2)),
        ("admin", numbered(LAYOUT.admin("trash"), 1)),
        ("voids", numbered(LAYOUT.admin("condemned"), 1)),
    ],
)
def test_a_check_names_a_record_in_anothers_place(world: World, source: str, place: str) -> None:
    copy = world.copy()
    copy.store.put(place, copy.store.get(world.keys(source)[0]))
    assert keys(copy.chain.check(SCRUB)) == {place}


@pytest.mark.parametrize("how", ["flipped", "truncated"])
def test_a_check_names_a_damaged_record_of_keys_or_systems(world: World, how: str) -> None:
    chance = random.Random(how)
    found = [info.key for prefix in (KEYS, systems("main")) for info in world.store.list(prefix)]
    assert found
    for key in found:
        for _ in SEEDS:
            copy = world.copy()
            damage(copy, key, how, chance=chance)
            assert [one.key for one in look_at_root(copy.store, "main")] == [key]


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("kind", ["packs", "manifests", "manifests-copy", "wal", "both manifests"])
def test_a_restore_yields_the_very_bytes_or_refuses(
    world: World, tmp_path: Path, kind: str, how: str
) -> None:
    """And what a check proved restores, whatever is wrong with others. (More may: where nobody
    needs the very frame that is damaged.)"""
    folder = "manifests" if kind == "both manifests" else kind
    whole = {name: world.restore(name, tmp_path / f"whole {name}") for name in world.chain.made}
    for name, (files, _) in whole.items():
        for path, content in world.contents[name].items():
            assert files[path] == content
    chance = random.Random(f"restore {kind} {how}")
    found = world.keys(folder)
    for number, key in enumerate(chance.sample(found, min(5, len(found)))):
        copy = world.copy()
        if damage(copy, key, how, chance=chance) is None:
            continue
        if kind == "both manifests":
            name = key.rpartition("/")[2]
            data = [copy.store.get(key)] if copy.store.exists(key) else []
            copy.store.delete([LAYOUT.manifest_copy(name)])
            for one in data:
                copy.store.put(LAYOUT.manifest_copy(name), one)
        report = copy.chain.check(DEEP)
        for name in world.chain.made:
            refused: PgkeepError | None = None
            try:
                got = copy.restore(name, tmp_path / f"{number} {name}")
            except PgkeepError as error:
                refused = error
            if refused is not None:
                assert name not in report.proved, (key, refused)
                assert refused.remedy, refused
            else:
                assert got == whole[name], key


@pytest.mark.parametrize("how", DAMAGES)
def test_what_was_found_bad_is_stored_again_by_the_next_backup(
    world: World, tmp_path: Path, how: str
) -> None:
    chance = random.Random(f"again {how}")
    newest = world.chain.made[-1]
    for number, key in enumerate(sorted(needed_packs(world)[newest])):
        copy = world.copy()
        wrong = damage(copy, key, how, chance=chance)
        if wrong is None:
            continue
        assert wrong & keys(copy.chain.check(SCRUB))
        made = copy.chain.run()
        assert not wrong & packs_of(made)
        report = copy.chain.check(DEEP)
        assert made.head["backup"] in report.proved
        assert wrong & keys(report)  # older backups are as broken as they were
        files, _ = copy.restore(made.head["backup"], tmp_path / str(number))
        for path, content in copy.chain.content().items():
            assert files[path] == content
