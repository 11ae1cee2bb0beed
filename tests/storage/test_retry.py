"""One policy: only what may pass is tried again, within the deadline, and a write once done
is never reported as lost to ourselves."""

from __future__ import annotations

import threading
import time

import pytest

from pgkeep.errors import (
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from pgkeep.storage import Store
from pgkeep.storage.fanout import FanOutStore
from pgkeep.storage.faulty import Failure, Fault, FaultyStore, random_faults
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.retry import LONGEST_WAIT_SECONDS, RetryingStore


class Time:
    """A clock that goes on only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def _retrying(
    plan: list[Fault], *, deadline: float = 60, time: Time | None = None, random: float = 0.5
) -> tuple[RetryingStore, FaultyStore, Time]:
    time = time or Time()
    faulty = FaultyStore(MemoryStore(), plan, sleep=time.sleep)
    retrying = RetryingStore(
        faulty,
        deadline_seconds=deadline,
        clock=time.clock,
        sleep=time.sleep,
        random=lambda: random,
    )
    return retrying, faulty, time


def test_what_may_pass_is_tried_again() -> None:
    store, faulty, _ = _retrying([Fault(Failure.UNAVAILABLE, times=3)])
    store.put("a", b"x", if_absent=True)
    assert faulty.count("put", "a") == 4
    for method, call in (
        ("get", lambda: store.get("a")),
        ("get_range", lambda: store.get_range("a", 0, 1)),
        ("get_ranges", lambda: store.get_ranges("a", [(0, 1)])),
        ("head", lambda: store.head("a")),
        ("replace", lambda: store.replace("a", b"x", etag=faulty.store.head("a").etag)),
        ("list", lambda: [*store.list()]),
        ("delete", lambda: store.delete(["a"])),
    ):
        faulty.fail(Fault(Failure.UNAVAILABLE, times=2))
        assert call()
        assert faulty.count(method) == 3
        faulty.heal()


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        (Failure.DENIED, StoreDenied),
        (Failure.FULL, StoreFull),
        (Failure.ABSENT, ObjectNotFound),
        (Failure.BROKEN, StoreError),
    ],
)
def test_an_answer_is_not_asked_for_again(failure: Failure, expected: type[StoreError]) -> None:
    store, faulty, time = _retrying([Fault(failure, times=None)])
    with pytest.raises(expected):
        store.get("a")
    assert faulty.count() == 1
    assert time.slept == []


@pytest.mark.parametrize("deadline", [0, 0.05, 10, 300])
@pytest.mark.parametrize("random", [0.0, 0.999])
def test_waiting_ends_at_the_deadline_and_uses_it(deadline: float, random: float) -> None:
    store, faulty, time = _retrying(
        [Fault(Failure.UNAVAILABLE, times=None)], deadline=deadline, random=random
    )
    with pytest.raises(StoreUnavailable) as caught:
        store.get("a")
    assert sum(time.slept) == pytest.approx(deadline)
    assert faulty.count("get") == len(time.slept) + 1
    assert caught.value.facts["attempts"] == faulty.count("get")
    assert "Cannot get a" in caught.value.what
    assert "Tried" in (caught.value.why or "")


def test_waits_double_up_to_a_limit_and_are_spread() -> None:
    slept = {}
    for random in (0.0, 0.999999):
        store, _, time = _retrying(
            [Fault(Failure.UNAVAILABLE, times=12)], deadline=1000, random=random
        )
        with pytest.raises(ObjectNotFound):
            store.get("a")
        slept[random] = time.slept
    full = [min(LONGEST_WAIT_SECONDS, 0.1 * 2**n) for n in range(12)]
    assert slept[0.0] == pytest.approx([wait / 2 for wait in full])
    assert slept[0.999999] == pytest.approx(full, rel=1e-3)


def test_an_attempt_that_takes_long_counts() -> None:
    store, faulty, _ = _retrying([Fault(Failure.UNAVAILABLE, times=None, seconds=7)], deadline=10)
    with pytest.raises(StoreUnavailable):
        store.get("a")
    assert faulty.count("get") == 2  # the second ends at 14 s, after the deadline


def test_a_create_whose_answer_was_lost_is_our_success() -> None:
    store, faulty, _ = _retrying([Fault(Failure.LOST_ANSWER, method="put")])
    etag = store.put("a", [b"con", b"", b"tent"], if_absent=True)
    assert etag == faulty.store.head("a").etag
    assert store.get("a") == b"content"
    assert faulty.count("put") == 2


@pytest.mark.parametrize("other", [b"another", b"content"[:-1] + b"T", b""])
def test_another_ones_object_stays_another_ones(other: bytes) -> None:
    store, faulty, _ = _retrying([Fault(Failure.UNAVAILABLE, method="put")])
    faulty.store.put("a", other)
    with pytest.raises(ObjectExists):
        store.put("a", b"content", if_absent=True)
    assert faulty.count("put") == 2
    assert store.get("a") == other


def test_equal_content_is_no_success_unless_it_may_be_ours() -> None:
    store, faulty, _ = _retrying([])
    faulty.store.put("a", b"content")
    with pytest.raises(ObjectExists):
        store.put("a", b"content", if_absent=True)
    assert faulty.count("get*") == 0


def test_reading_back_is_tried_again_too() -> None:
    store, _, _ = _retrying(
        [
            Fault(Failure.LOST_ANSWER, method="put"),
            Fault(Failure.UNAVAILABLE, method="head"),
            Fault(Failure.UNAVAILABLE, method="get_range"),
        ]
    )
    assert store.put("a", b"content", if_absent=True) == store.head("a").etag


def test_a_truncated_answer_is_not_taken_for_our_content() -> None:
    store, faulty, _ = _retrying(
        [
            Fault(Failure.LOST_ANSWER, method="put"),
            Fault(Failure.TRUNCATED, method="get_range", times=None),
        ]
    )
    with pytest.raises(ObjectExists):
        store.put("a", b"content", if_absent=True)
    assert faulty.store.get("a") == b"content"


def test_a_swap_whose_answer_was_lost_is_our_success() -> None:
    store, faulty, _ = _retrying([])
    first = store.put("lease", b"first")
    faulty.fail(Fault(Failure.LOST_ANSWER, method="replace"))
    etag = store.replace("lease", b"second", etag=first)
    assert etag == faulty.store.head("lease").etag
    with pytest.raises(PreconditionFailed):
        store.replace("lease", b"third", etag=first)


def test_a_swap_that_another_won_is_lost() -> None:
    store, faulty, _ = _retrying([])
    first = store.put("lease", b"first")
    faulty.store.replace("lease", b"other", etag=first)
    faulty.fail(Fault(Failure.UNAVAILABLE, method="replace"))
    with pytest.raises(PreconditionFailed):
        store.replace("lease", b"mine", etag=first)


def test_a_listing_that_broke_off_goes_on_where_it_was() -> None:
    store, faulty, _ = _retrying([Fault(Failure.LOST_ANSWER, method="list", times=3)])
    keys = [f"k/{n:02}" for n in range(16)]
    for key in keys:
        faulty.store.put(key, b"")
    assert [info.key for info in store.list("k/")] == keys
    assert faulty.count("list") == 4


def test_only_what_was_not_deleted_is_deleted_again() -> None:
    store, faulty, _ = _retrying(
        [
            Fault(Failure.UNAVAILABLE, method="delete", key="b", times=2),
            Fault(Failure.DENIED, method="delete", key="c", times=None),
        ]
    )
    for key in "abc":
        faulty.store.put(key, b"")
    result = store.delete(iter("abc"))
    assert (result["a"], result["b"]) == (None, None)
    assert isinstance(result["c"], StoreDenied)
    assert [faulty.count("delete", key) for key in "abc"] == [1, 3, 1]


def test_a_delete_that_never_gets_through_says_so() -> None:
    store, _, time = _retrying([Fault(Failure.UNAVAILABLE, times=None)], deadline=5)
    assert isinstance(store.delete(["a"])["a"], StoreUnavailable)
    assert sum(time.slept) == pytest.approx(5)


def test_a_sibling_has_its_own_deadline() -> None:
    store, _, time = _retrying([Fault(Failure.UNAVAILABLE, times=None)], deadline=300)
    with pytest.raises(StoreUnavailable):
        store.with_deadline(2).get("a")
    assert sum(time.slept) == pytest.approx(2)
    assert store.deadline_seconds == 300


def test_cancelling_ends_the_waiting_at_once() -> None:
    cancelled = threading.Event()
    faulty = FaultyStore(MemoryStore(), [Fault(Failure.UNAVAILABLE, times=None)])
    store = RetryingStore(faulty, deadline_seconds=3600, cancelled=cancelled)
    timer = threading.Timer(0.3, cancelled.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        store.get("a")
    assert 0.25 < time.monotonic() - began < 5
    with pytest.raises(StoreUnavailable):
        store.with_deadline(3600).get("a")
    timer.join()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("seed", range(20))
def test_whatever_fails_in_passing_nothing_is_lost_or_doubled(seed: int) -> None:
    plan = random_faults(
        seed, count=30, within=80, failures=[Failure.UNAVAILABLE, Failure.LOST_ANSWER]
    )
    store, faulty, _ = _retrying(plan, deadline=1000)
    etag = store.put("lease", b"0")
    for n in range(20):
        store.put(f"k/{n:02}", b"%d" % n, if_absent=True)
        etag = store.replace("lease", b"%d" % (n + 1), etag=etag)
    assert [info.key for info in store.list("k/")] == [f"k/{n:02}" for n in range(20)]
    assert store.get("lease") == b"20"
    assert faulty.count() > 41


@pytest.mark.parametrize("fanned", [False, True])
def test_who_has_others_to_look_after_does_not_wait(fanned: bool) -> None:
    """As a backup has its session, also where mirrors hang on its store."""
    store, faulty, clock = _retrying([Fault(Failure.UNAVAILABLE, times=None)], deadline=600)
    given: Store = store
    if fanned:
        mirrors = {"second": MemoryStore()}
        given = FanOutStore(store, mirrors, through=["/packs/"], dropped=lambda *_: None)
    began = clock.now
    with pytest.raises(StoreUnavailable):
        given.impatient().head("a")
    with pytest.raises(StoreUnavailable):
        given.impatient().put("a", b"x", if_absent=True)
    assert clock.now == began
    assert faulty.count() == 2
    faulty.heal()
    assert given.impatient().put("a", b"x")
    given.close()
