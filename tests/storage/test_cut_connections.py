"""A real store behind a proxy that cuts, stalls, slows and vanishes: every call ends in time.

Either with ``StoreUnavailable``, which names the store and the object, or, tried again, with what
was asked for. Patience is shortened here, in the same proportions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from pgkeep.errors import ObjectExists, StoreError, StoreUnavailable
from pgkeep.storage import _object_client
from pgkeep.storage.checked import CheckedStore
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.retry import RetryingStore
from tests.object_stores import object_service
from tests.toxiproxy import DOWN, UP, Cutter, Disturber, behind

pytestmark = pytest.mark.timeout(120)

_SIZE = 32 << 20
_HALF = _SIZE // 2
_SILENCE_SECONDS = 2
_SMALL_PUT_SECONDS, _LARGE_PUT_SECONDS = 3, 15
_LARGE = bytes(range(251)) * (_SIZE // 251 + 1)
_LARGE = _LARGE[:_SIZE]
# Two requests, one of them for more than half.
_RANGES = [(0, 100_000), (200_000, 24 << 20), (_SIZE - 10, 10)]


class Site(NamedTuple):
    """``store`` goes through ``cutter``, ``direct`` does not; both mean the same objects."""

    cutter: Cutter
    store: ObjectStore
    direct: ObjectStore
    etag: str

    def retrying(self, deadline_seconds: float = 60) -> RetryingStore:
        return RetryingStore(CheckedStore(self.store), deadline_seconds=deadline_seconds)


@pytest.fixture(params=["minio", "versitygw"])
def site(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(_object_client, "SILENCE_SECONDS", _SILENCE_SECONDS)
    limits = ((1 << 20, _SMALL_PUT_SECONDS), (64 << 20, _LARGE_PUT_SECONDS))
    monkeypatch.setattr(_object_client, "PUT_SECONDS", limits)
    service, cutter = behind(request, request.param)
    place = service.new_place()
    direct = ObjectStore(place, object_service(request, request.param).options)
    direct.put("large", _LARGE)
    for number in range(20):
        direct.put(f"few/{number:02}", b"x")
    etag = direct.put("swapped", b"before")
    yield Site(cutter, ObjectStore(place, service.options), direct, etag)
    cutter.remove()


# Each call, and what it is about; each is made once a test.
Call = Callable[[Any, Site], object]
_READS: dict[str, tuple[str, Call]] = {
    "get": ("large", lambda store, _: store.get("large")),
    "get_range": ("large", lambda store, _: store.get_range("large", 5, _SIZE - 10)),
    "get_ranges": ("large", lambda store, _: [*map(bytes, store.get_ranges("large", _RANGES))]),
    "head": ("large", lambda store, _: store.head("large").size_bytes),
    "list": ("few/", lambda store, _: [info.key for info in store.list("few/")]),
}
_WRITES: dict[str, tuple[str, Call]] = {
    "put": ("new", lambda store, _: store.put("new", _LARGE)),
    "create": ("new", lambda store, _: store.put("new", [_LARGE[:9], _LARGE[9:]], if_absent=True)),
    "replace": ("swapped", lambda store, site: store.replace("swapped", b"after", etag=site.etag)),
    "delete": ("few/00", lambda store, _: _raised(store.delete(["few/00"])["few/00"])),
}
_CALLS = {**_READS, **_WRITES}

# What is wrong, and within how many seconds a read and a large put have to end.
_FAULTS: dict[str, Callable[[Cutter], None]] = {
    "reset before the request": lambda cutter: cutter.add("reset_peer", UP, timeout=0),
    "reset before the answer": lambda cutter: cutter.add("reset_peer", DOWN, timeout=0),
    "closed before the answer": lambda cutter: cutter.add("limit_data", DOWN, bytes=0),
    "the request never arrives": lambda cutter: cutter.add("timeout", UP, timeout=0),
    "the answer never arrives": lambda cutter: cutter.add("timeout", DOWN, timeout=0),
    "nobody there": Cutter.vanish,
}


def _raised(problem: StoreError | None) -> None:
    if problem is not None:
        raise problem


def _patience(name: str) -> float:
    """Seconds within which the call must have ended, with what this busy machine adds."""
    if name in ("put", "create"):
        return _LARGE_PUT_SECONDS + 3
    return max(_SMALL_PUT_SECONDS, _SILENCE_SECONDS) + 3


def _fails(site: Site, name: str) -> StoreUnavailable:
    """The error of the call, which came in time and names store and object."""
    key, call = _CALLS[name]
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        call(site.store, site)
    assert time.monotonic() - began < _patience(name)
    assert f"{site.store.url}/{key}".rstrip("/") in caught.value.what
    assert caught.value.facts["key"] == key
    assert caught.value.why
    assert caught.value.remedy
    return caught.value


@pytest.mark.parametrize("fault", _FAULTS)
@pytest.mark.parametrize("name", _CALLS)
def test_a_call_ends_in_time_and_says_with_what(site: Site, name: str, fault: str) -> None:
    _FAULTS[fault](site.cutter)
    if name in ("put", "create") and "never" in fault:
        # A large one has time by its size, which is tested once below.
        key = f"new-{name}"
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match=key):
            site.store.put(key, b"small", if_absent=name == "create")
        assert time.monotonic() - began < _SMALL_PUT_SECONDS + 3
        return
    _fails(site, name)


@pytest.mark.parametrize("fault", _FAULTS)
@pytest.mark.parametrize("name", _CALLS)
def test_a_call_that_is_tried_again_succeeds_once(site: Site, name: str, fault: str) -> None:
    """Whatever was done already is not done to ourselves: no echo is taken for another writer."""
    key, call = _CALLS[name]
    expected = call(site.direct, site) if name in _READS else None
    _FAULTS[fault](site.cutter)
    with site.cutter.healed_after(1):
        found = call(site.retrying(), site)
    if name in _READS:
        assert found == expected
    elif name == "delete":
        assert not [*site.direct.list(key)]
    else:
        assert found == site.direct.head(key).etag
        assert site.direct.get(key) == (b"after" if name == "replace" else _LARGE)


@pytest.mark.parametrize("name", ["get", "get_range", "get_ranges"])
def test_a_download_that_is_cut_in_half_is_no_short_object(site: Site, name: str) -> None:
    site.cutter.add("limit_data", DOWN, bytes=_HALF)
    _fails(site, name)
    expected = _CALLS[name][1](site.direct, site)
    with site.cutter.healed_after(1):
        assert _CALLS[name][1](site.retrying(), site) == expected


@pytest.mark.parametrize("name", ["put", "create"])
def test_an_upload_that_is_cut_in_half_leaves_nothing(site: Site, name: str) -> None:
    site.cutter.add("limit_data", UP, bytes=_HALF)
    _fails(site, name)
    assert not [*site.direct.list("new")]
    with site.cutter.healed_after(1):
        _CALLS[name][1](site.retrying(), site)
    assert site.direct.get("new") == _LARGE


@pytest.mark.parametrize("name", ["get", "get_ranges"])
def test_a_download_that_stands_still_ends_after_the_silence(site: Site, name: str) -> None:
    site.cutter.add("bandwidth", DOWN, rate=4096)  # 32 MiB take 8 s, so the stall is in the midst
    stall = threading.Timer(1, site.cutter.add, ("timeout", DOWN), {"timeout": 0})
    stall.start()
    began = time.monotonic()
    _fails(site, name)
    stall.join()
    assert time.monotonic() - began > 1 + _SILENCE_SECONDS - 0.5


def test_an_upload_that_stands_still_ends_with_the_time_for_its_size(site: Site) -> None:
    site.cutter.add("bandwidth", UP, rate=4096)
    stall = threading.Timer(1, site.cutter.add, ("timeout", UP), {"timeout": 0})
    stall.start()
    _fails(site, "put")
    stall.join()
    assert not [*site.direct.list("new")]


@pytest.mark.parametrize("name", ["get", "get_range", "put", "create"])
def test_a_large_transfer_that_is_slow_but_alive_is_not_cut(site: Site, name: str) -> None:
    """It takes far longer than any silence that is borne, and more than a small put may."""
    key, call = _CALLS[name]
    for way in (UP, DOWN):
        site.cutter.add("bandwidth", way, rate=5120)
        site.cutter.add("slicer", way, average_size=60_000, size_variation=20_000, delay=100)
    began = time.monotonic()
    found = call(site.store, site)
    assert time.monotonic() - began > 2 * _SILENCE_SECONDS
    assert time.monotonic() - began > _SMALL_PUT_SECONDS
    if name in _READS:
        assert found == call(site.direct, site)
    else:
        assert site.direct.get(key) == _LARGE


def test_a_lost_answer_of_a_create_is_ours_and_of_others_theirs(site: Site) -> None:
    site.cutter.add("reset_peer", DOWN, timeout=0)
    with site.cutter.healed_after(1):
        etag = site.retrying().put("once", b"mine", if_absent=True)
    assert etag == site.direct.head("once").etag
    # Another's object, of equal length even, is never called ours, whatever happened before.
    site.direct.put("taken", b"else")
    site.cutter.add("reset_peer", DOWN, timeout=0)
    with site.cutter.healed_after(1), pytest.raises(ObjectExists):
        site.retrying().put("taken", b"mine", if_absent=True)
    assert site.direct.get("taken") == b"else"


def test_what_stays_away_is_given_up_at_the_deadline(site: Site) -> None:
    site.store.head("large")
    site.cutter.vanish()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="Tried") as caught:
        site.retrying(3).get("large")
    assert 2.5 < time.monotonic() - began < 6
    assert int(str(caught.value.facts["attempts"])) > 3


def test_random_cuts_are_felt_and_survived(site: Site) -> None:
    """The disturber that whole commands meet: bare calls fail under it, retried ones do not."""
    store = site.retrying()
    failed = 0
    with Disturber(site.cutter, seed=7, healthy=(0.05, 0.2), ill=(0.05, 0.2)) as disturber:
        began, number = time.monotonic(), 0
        # A slow machine makes few requests in the time, and so meets few cuts.
        while time.monotonic() < began + (12 if failed > 3 else 90):
            key, content = f"many/{number:04}", _LARGE[number : number + 300_000]
            store.put(key, content, if_absent=True)
            assert store.get(key) == content
            try:
                site.store.get(key)
            except StoreUnavailable:
                failed += 1
            number += 1
    assert disturber.strikes > 10
    assert failed > 3
    assert [info.key for info in site.direct.list("many/")] == [
        f"many/{n:04}" for n in range(number)
    ]
