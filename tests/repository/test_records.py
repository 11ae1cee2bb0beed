"""Records and their numbers hold against whatever else lies in a store."""

from __future__ import annotations

import json
from typing import Any

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectExists, RepositoryError
from pgkeep.repository.layout import check_cluster_name
from pgkeep.repository.record import build_record, member, newest, parse_record, publish
from pgkeep.repository.system import read_systems
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.interface import Buffer
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import AT, BY


def forge(text: bytes) -> bytes:
    line = text + b"\n"
    return line + b"blake3 " + blake3(line).hexdigest().encode() + b"\n"


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        b"null",
        b"7",
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"type": "pin", "at": "x", "by": {}}',
        b'{"pgkeep": "1", "type": "pin", "at": "x", "by": {}}',
        b'{"pgkeep": true, "type": "pin", "at": "x", "by": {}}',
        b'{"pgkeep": null, "type": "pin", "at": "x", "by": {}}',
        b'{"pgkeep": 1, "type": "pin", "at": 7, "by": {}}',
        b'{"pgkeep": 1, "type": "pin", "at": "x", "by": "me"}',
        b'{"pgkeep": 1, "type": "pin"}',
    ],
)
def test_a_record_that_is_not_one_is_damage(text: bytes) -> None:
    with pytest.raises(DamagedObject):
        parse_record(forge(text), "key", kind="pin")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
        max_leaves=8,
    )
)
def test_any_json_at_all_raises_an_error_of_ours(value: Any) -> None:
    try:
        parse_record(forge(json.dumps(value).encode()), "key", kind="pin")
    except (DamagedObject, FormatTooNew):
        pass
    else:
        pytest.fail("it is no record")


def test_a_system_record_with_members_missing_is_damage() -> None:
    for members in (
        {},
        {"system_identifier": 7},
        {"system_identifier": "-7", "postgres_major": 18},
        {"system_identifier": "../x", "postgres_major": 18},
        {"system_identifier": "7", "postgres_major": "18"},
    ):
        store = MemoryStore()
        store.put("main/systems/00000001", build_record("system", members, at=AT, by=BY))
        with pytest.raises(DamagedObject):
            read_systems(store, "main")


def test_a_truth_value_is_no_number() -> None:
    with pytest.raises(DamagedObject):
        member({"n": True}, "n", int, name="key")
    assert member({"n": True}, "n", bool, name="key")


def test_names_that_are_no_numbers_do_not_count() -> None:
    store = MemoryStore()
    for name in ("00000002", "00000003/x", "0000004", "000000005", "999999999", "zzzzzzzz"):
        store.put(f"x/{name}", b"")
    found = newest(store, "x/")
    assert found is not None
    assert found.key == "x/00000002"
    assert publish(store, "x/", lambda n: b"%d" % n) == "x/00000003"


def test_numbers_of_twenty_digits_have_a_series_of_their_own() -> None:
    store = MemoryStore()
    for number in (1, 2):
        made = publish(store, "t/", lambda n: b"%d" % n, digits=20)
        assert made == f"t/{number:020d}"
    assert newest(store, "t/") is None


def test_who_remembers_the_last_number_lists_only_what_is_newer() -> None:
    store = MemoryStore()
    for number in range(1, 6):
        store.put(f"x/{number:08d}", b"")
    listed: list[str] = []
    plain_list = store.list

    def counted(prefix: str = "", *, start_after: str | None = None) -> Any:
        for info in plain_list(prefix, start_after=start_after):
            listed.append(info.key)
            yield info

    store.list = counted  # type: ignore[method-assign]
    assert publish(store, "x/", lambda n: b"%d" % n, after=4) == "x/00000006"
    assert listed == ["x/00000005"]
    assert newest(store, "x/", after=6) is None


def test_when_all_numbers_are_taken_publishing_says_so() -> None:
    """Whoever may create objects can take the last one; that must not wrap around or hang."""
    store = MemoryStore()
    store.put("x/99999999", b"")
    with pytest.raises(RepositoryError):
        publish(store, "x/", lambda n: b"")


def test_a_success_whose_answer_was_lost_is_not_published_twice() -> None:
    class Losing(MemoryStore):
        lost = False

        def put(self, key: str, data: Buffer | Any, *, if_absent: bool = False) -> str:
            if not self.lost:
                self.lost = True
                super().put(key, data, if_absent=if_absent)
                raise ObjectExists("an echo")
            return super().put(key, data, if_absent=if_absent)

    store = Losing()
    assert publish(store, "x/", lambda _: b"ours") == "x/00000001"
    assert [info.key for info in store.list("x/")] == ["x/00000001"]


def test_a_number_that_is_refused_and_not_taken_is_tried_again() -> None:
    """As S3 does it (409) while another create of the same key is under way, and then fails."""
    store = FaultyStore(MemoryStore(), [Fault(Failure.TAKEN, "put")])
    assert publish(store, "x/", lambda _: b"ours") == "x/00000001"
    store.fail(Fault(Failure.TAKEN, "put", times=None))
    with pytest.raises(ObjectExists):
        publish(store, "x/", lambda _: b"ours")


@pytest.mark.parametrize("name", ["main\n", "main\x00", "a b", "\u0661", "a\u0301"])
def test_a_cluster_name_is_checked_to_its_last_character(name: str) -> None:
    from pgkeep.errors import ConfigError

    with pytest.raises(ConfigError):
        check_cluster_name(name)
