"""Of the records that name a key the newest says whether it is condemned (format, section 2.9)."""

from __future__ import annotations

import pytest

from pgkeep.errors import DamagedObject
from pgkeep.repository.condemned import condemned_keys
from pgkeep.repository.record import build_record
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import AT, BY, LAYOUT

PREFIX = LAYOUT.admin("condemned")


def store_with(*records: tuple[str, object]) -> MemoryStore:
    store = MemoryStore()
    for number, (kind, keys) in enumerate(records, start=1):
        data = build_record(kind, {"keys": keys, "grace_seconds": 3600}, at=AT, by=BY)
        store.put(f"{PREFIX}{number:08d}", data)
    return store


@pytest.mark.parametrize(
    ("records", "condemned"),
    [
        ([], ""),
        ([("condemned", ["a", "b"])], "ab"),
        ([("condemned", ["a", "b"]), ("spared", ["a"])], "b"),
        ([("spared", ["a"]), ("condemned", ["a"])], "a"),
        ([("condemned", ["a"]), ("spared", ["a"]), ("condemned", ["a", "c"])], "ac"),
        ([("condemned", []), ("spared", [])], ""),
    ],
)
def test_the_newest_record_that_names_a_key_wins(
    records: list[tuple[str, object]], condemned: str
) -> None:
    assert condemned_keys(store_with(*records), LAYOUT) == {*condemned}


def test_many_records_are_read_in_the_order_of_their_numbers() -> None:
    kinds = ["condemned", "spared"] * 50
    records: list[tuple[str, object]] = [(kind, [f"{n % 7}"]) for n, kind in enumerate(kinds)]
    wanted = {keys[0]: kind for kind, keys in records}  # type: ignore[index]
    found = condemned_keys(store_with(*records), LAYOUT)
    assert found == {key for key, kind in wanted.items() if kind == "condemned"}


def test_other_names_under_the_prefix_are_ignored() -> None:
    store = store_with(("condemned", ["a"]))
    store.put(f"{PREFIX}new", b"of a later version")
    assert condemned_keys(store, LAYOUT) == {"a"}


@pytest.mark.parametrize(
    "record", [("condemned", "a"), ("condemned", [1]), ("trash", ["a"]), ("spared", None)]
)
def test_a_record_that_says_nothing_sound_is_an_error(record: tuple[str, object]) -> None:
    """Not an empty list: what it condemned would be taken for safe."""
    with pytest.raises(DamagedObject):
        condemned_keys(store_with(record), LAYOUT)
