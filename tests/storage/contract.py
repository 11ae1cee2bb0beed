"""What every store promises, whatever is behind it.

A store joins by a subclass of :class:`StoreContract` in ``test_contract.py`` with one fixture,
``store``, that yields an empty one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgkeep.errors import ObjectExists, ObjectNotFound, PreconditionFailed, StoreError
from pgkeep.storage import Buffer, ObjectInfo, Store

ILLEGAL_KEYS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/./b",
    ".hidden",
    "a/.hidden",
    "a b",
    "a\n",
    "a\0b",
    "ä",
    "a\\b",
    "x" * 901,
]


class StoreContract:
    # Whether an etag never comes back at all, not even when equal content is written again.
    etags_tell_writes = True

    def test_what_was_put_is_what_is_got(self, store: Store) -> None:
        store.put("main/1/packs/a", b"content")
        assert store.get("main/1/packs/a") == b"content"

    def test_an_empty_object_is_an_object(self, store: Store) -> None:
        store.put("empty", b"", if_absent=True)
        assert store.head("empty").size_bytes == 0
        assert store.get("empty") == b""
        assert store.exists("empty")
        assert store.get_range("empty", 0, 10) == b""

    def test_many_buffers_of_every_kind_become_one_object(self, store: Store) -> None:
        pieces: list[Buffer] = [
            b"one",
            bytearray(b"two"),
            memoryview(b"_three_")[1:6],
            b"",
            memoryview(b""),
        ]
        store.put("joined", pieces)
        assert store.get("joined") == b"onetwothree"
        assert store.head("joined").size_bytes == 11

    def test_thousands_of_buffers_are_no_problem(self, store: Store) -> None:
        pieces = [bytes([n % 256]) * (n % 7) for n in range(5000)]
        store.put("many", pieces)
        assert store.get("many") == b"".join(pieces)

    def test_the_callers_buffers_may_be_reused_after_the_put(self, store: Store) -> None:
        buffer = bytearray(b"before")
        store.put("kept", buffer)
        buffer[:] = b"behind"
        assert store.get("kept") == b"before"

    def test_a_large_object_comes_back_whole(self, store: Store) -> None:
        megabyte = bytes(range(256)) * 4096
        store.put("large", [megabyte] * 33)
        assert store.get("large") == megabyte * 33

    def test_a_put_replaces_unless_told_otherwise(self, store: Store) -> None:
        store.put("again", b"first")
        store.put("again", b"second, longer")
        assert store.get("again") == b"second, longer"
        assert store.head("again").size_bytes == 14

    def test_a_create_only_put_never_overwrites(self, store: Store) -> None:
        store.put("once", b"first", if_absent=True)
        for content in (b"first", b"second"):
            with pytest.raises(ObjectExists):
                store.put("once", content, if_absent=True)
        assert store.get("once") == b"first"

    def test_a_create_only_put_works_again_after_a_delete(self, store: Store) -> None:
        store.put("a/b/c", b"first", if_absent=True)
        store.delete(["a/b/c"])
        store.put("a/b/c", b"second", if_absent=True)
        assert store.get("a/b/c") == b"second"

    def test_of_many_creators_one_wins(self, store: Store) -> None:
        assert store.capabilities.conditional_create

        def create(number: int) -> bool:
            barrier.wait()
            try:
                store.put("race", str(number).encode() * 1000, if_absent=True)
            except ObjectExists:
                return False
            return True

        barrier = threading.Barrier(8)
        won = _in_threads(create, 8)
        assert won.count(True) == 1
        assert store.get("race") == str(won.index(True)).encode() * 1000

    def test_put_head_and_list_tell_the_same(self, store: Store) -> None:
        etag = store.put("dir/told", b"12345")
        told = store.head("dir/told")
        assert told.etag == etag
        assert [told] == [*store.list()]
        assert (told.key, told.size_bytes) == ("dir/told", 5)

    def test_modified_is_now_in_utc(self, store: Store) -> None:
        store.put("now", b"")
        told = store.head("now")
        assert told.modified.utcoffset() == timedelta(0)
        assert abs(datetime.now(UTC) - told.modified) < timedelta(minutes=5)

    def test_what_is_not_there_is_positively_not_found(self, store: Store) -> None:
        store.put("there/is", b"something")
        requests: list[Callable[[str], object]] = [
            store.get,
            store.head,
            lambda key: store.get_range(key, 0, 1),
            lambda key: store.get_ranges(key, [(0, 1), (5, 1)]),
            lambda key: store.replace(key, b"x", etag="any"),
        ]
        for request in requests:
            for key in ("absent", "there", "there/absent", "there/is/below", "no/such/place"):
                with pytest.raises(ObjectNotFound):
                    request(key)
        assert not store.exists("absent")
        assert not store.exists("there")
        assert store.exists("there/is")

    def test_a_range_ends_where_the_object_ends(self, store: Store) -> None:
        store.put("ten", b"0123456789")
        assert store.get_range("ten", 0, 10) == b"0123456789"
        assert store.get_range("ten", 3, 4) == b"3456"
        assert store.get_range("ten", 8, 4) == b"89"
        assert store.get_range("ten", 10, 4) == b""
        assert store.get_range("ten", 1000, 4) == b""
        assert store.get_range("ten", 5, 0) == b""

    @pytest.mark.parametrize(("start", "length"), [(-1, 2), (0, -1)])
    def test_a_negative_range_is_an_error(self, store: Store, start: int, length: int) -> None:
        store.put("ten", b"0123456789")
        with pytest.raises(StoreError):
            store.get_range("ten", start, length)

    def test_ranges_come_in_the_order_of_the_request(self, store: Store) -> None:
        content = bytes(n % 251 for n in range(200_000))
        store.put("ranges", content)
        wanted = [(150_000, 10), (0, 5), (3, 100), (3, 100), (199_990, 50), (90_000, 70_000)]
        got = store.get_ranges("ranges", wanted)
        assert got == [content[start : start + length] for start, length in wanted]
        assert store.get_ranges("ranges", []) == []

    def test_a_listing_is_in_the_byte_order_of_keys(self, store: Store) -> None:
        keys = ["a/b", "a-b", "a", "a.b", "a0", "A/z", "a=/x", "aa/b", "a_b", "b/c/d", "b/c-d"]
        keys.remove("a")  # an object cannot share its name with a directory of a file system
        for key in keys:
            store.put(key, b"")
        assert [info.key for info in store.list()] == sorted(keys)

    def test_a_prefix_is_plain_text(self, store: Store) -> None:
        for key in ("a/b", "a/bc", "a/b-d/e", "a/c", "ab/c", "b"):
            store.put(key, b"")
        listed = {prefix: _keys(store, prefix) for prefix in ("a/b", "a/", "a", "", "a/bc/", "z")}
        assert listed == {
            "a/b": ["a/b", "a/b-d/e", "a/bc"],
            "a/": ["a/b", "a/b-d/e", "a/bc", "a/c"],
            "a": ["a/b", "a/b-d/e", "a/bc", "a/c", "ab/c"],
            "": ["a/b", "a/b-d/e", "a/bc", "a/c", "ab/c", "b"],
            "a/bc/": [],
            "z": [],
        }

    @pytest.mark.parametrize("prefix", ["../", "/", "a//", ".", "./a", "a/../"])
    def test_a_prefix_that_no_key_can_have_finds_nothing(self, store: Store, prefix: str) -> None:
        store.put("a/b", b"")
        assert _keys(store, prefix) == []

    def test_a_listing_can_go_on_after_any_key(self, store: Store) -> None:
        keys = sorted(["a/b", "a/c", "a-b", "a0", "b/c/d", "b/c/e", "b/d"])
        for key in keys:
            store.put(key, b"")
        for after in [*keys, "", "a", "a/", "a/bb", "b/c", "b/c/", "b/c/dd", "zz"]:
            got = [info.key for info in store.list(start_after=after)]
            assert got == [key for key in keys if key > after], after
        assert [info.key for info in store.list("b/", start_after="b/c/d")] == ["b/c/e", "b/d"]

    def test_a_listing_survives_deletions_meanwhile(self, store: Store) -> None:
        keys = [f"d{n // 5}/{n:02}" for n in range(20)]
        for key in keys:
            store.put(key, b"")
        listed = []
        for info in store.list():
            listed.append(info.key)
            if info.key == keys[0]:
                store.delete(keys[3:17])
        assert {*keys[:3], *keys[17:]} <= {*listed} <= {*keys}
        assert listed == sorted(listed)

    def test_what_was_put_is_listed_at_once(self, store: Store) -> None:
        for n in range(20):
            store.put(f"at-once/{n:02}", b"", if_absent=True)
            assert len(_keys(store, "at-once/")) == n + 1

    def test_deleting_says_how_each_key_fared(self, store: Store) -> None:
        store.put("gone/a", b"")
        store.put("gone/b", b"")
        store.put("stays", b"")
        result = store.delete(["gone/a", "never/was", "gone/b", "../stays"])
        assert [*result] == ["gone/a", "never/was", "gone/b", "../stays"]
        assert [result[key] for key in ("gone/a", "never/was", "gone/b")] == [None] * 3
        assert isinstance(result["../stays"], StoreError)
        assert _keys(store) == ["stays"]
        assert store.delete([]) == {}

    def test_deleting_takes_any_iterable(self, store: Store) -> None:
        for n in range(5):
            store.put(f"k/{n}", b"")
        store.delete(info.key for info in [*store.list("k/")])
        assert _keys(store) == []

    def test_compare_and_swap_swaps_only_what_was_compared(self, store: Store) -> None:
        assert store.capabilities.compare_and_swap
        first = store.put("lease", b"first")
        second = store.replace("lease", b"second", etag=first)
        assert second == store.head("lease").etag
        with pytest.raises(PreconditionFailed):
            store.replace("lease", b"third", etag=first)
        assert store.get("lease") == b"second"

    def test_an_etag_never_comes_back_with_other_content(self, store: Store) -> None:
        etags = [store.put("lease", b"0000")]
        for n in range(1, 100):
            etags.append(store.replace("lease", b"%04d" % n, etag=etags[-1]))
            if n % 10 == 0:
                over = b"over" if self.etags_tell_writes else b"ov%02d" % n
                etags.append(store.put("lease", over))
        assert len(set(etags)) == len(etags)

    def test_no_swap_is_lost_among_threads(self, store: Store) -> None:
        store.put("counter", b"0")

        def count(_: int) -> None:
            for _ in range(10):
                while not _increment(store, "counter"):
                    pass

        _in_threads(count, 4)
        assert store.get("counter") == b"40"

    @pytest.mark.parametrize("key", ILLEGAL_KEYS)
    def test_an_illegal_key_is_refused_everywhere(self, store: Store, key: str) -> None:
        requests: list[Callable[[], object]] = [
            lambda: store.put(key, b""),
            lambda: store.put(key, b"", if_absent=True),
            lambda: store.replace(key, b"", etag="x"),
            lambda: store.get(key),
            lambda: store.get_range(key, 0, 1),
            lambda: store.head(key),
        ]
        for request in requests:
            with pytest.raises(StoreError) as caught:
                request()
            assert not isinstance(caught.value, ObjectNotFound)
        assert isinstance(store.delete([key])[key], StoreError)
        assert _keys(store) == []

    def test_long_legal_keys_work(self, store: Store) -> None:
        key = "/".join(["p" * 200] * 4)
        store.put(key, b"long")
        assert store.get(key) == b"long"

    def test_writers_and_deleters_of_one_directory_do_not_disturb_each_other(
        self, store: Store
    ) -> None:
        come_and_go(store)
        assert _keys(store) == []

    def test_messages_name_the_store_and_the_key(self, store: Store) -> None:
        with pytest.raises(ObjectNotFound) as caught:
            store.get("main/1/absent")
        assert "main/1/absent" in str(caught.value)
        assert store.url in str(caught.value)


def _keys(store: Store, prefix: str = "") -> list[str]:
    listed: list[ObjectInfo] = [*store.list(prefix)]
    return [info.key for info in listed]


def _increment(store: Store, key: str) -> bool:
    before = store.head(key)
    value = int(store.get(key))
    try:
        store.replace(key, str(value + 1).encode(), etag=before.etag)
    except PreconditionFailed:
        return False
    return True


def _in_threads(action: Callable[[int], Any], count: int) -> list[Any]:
    with ThreadPoolExecutor(count) as pool:
        return [*pool.map(action, range(count))]


def come_and_go(store: Store) -> None:
    """Objects of one directory, each created, read and deleted, by four threads at once."""

    def work(number: int) -> None:
        for n in range(25):
            key = f"deep/er/{number}-{n}"
            store.put(key, key.encode(), if_absent=True)
            assert store.get(key) == key.encode()
            assert store.delete([key]) == {key: None}

    _in_threads(work, 4)
