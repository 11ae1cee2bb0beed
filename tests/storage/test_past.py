"""A bucket that keeps versions is read as it was, whatever happened to it since."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from pgkeep.errors import ConfigError, ObjectNotFound, StoreDenied
from pgkeep.storage import versions
from pgkeep.storage.interface import check_key
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.past import PastStore
from pgkeep.storage.versions import Version, as_of
from tests.object_stores import Service, object_service
from tests.storage.aws import versioned_place


@pytest.fixture(params=["minio", "moto"])
def service(request: pytest.FixtureRequest) -> Service:
    return object_service(request, request.param)


def _pause() -> datetime:
    """A moment that lies between what was before and what comes after, in whole seconds too."""
    time.sleep(1.1)
    moment = datetime.now(UTC)
    time.sleep(1.1)
    return moment


def test_what_was_deleted_overwritten_or_added_since_does_not_show(service: Service) -> None:
    place = versioned_place(service)
    now = ObjectStore(place, service.options)
    now.put("main/a", b"first a")
    now.put("main/a", b"the second a")
    now.put("main/a.b", b"beside")
    now.put("main/gone", b"deleted before")
    _pause()
    now.delete(["main/gone"])
    now.put("main/packs/1", bytes(range(256)) * 16)
    now.put("other/x", b"x")
    moment = _pause()
    now.put("main/a", b"rubbish")
    now.put("main/new", b"added")
    now.put("main/gone", b"back again")
    now.delete(["main/a.b", "main/packs/1", "other/x"])

    then = PastStore(place, service.options, moment)
    listed = {info.key: info.size_bytes for info in then.list("main/")}
    assert listed == {"main/a": 12, "main/a.b": 6, "main/packs/1": 4096}
    assert [info.key for info in then.list(start_after="main/a.b")] == ["main/packs/1", "other/x"]
    # Asked for one by one, nothing is known from a listing.
    alone = PastStore(place, service.options, moment)
    for store in (then, alone):
        assert store.get("main/a") == b"the second a"
        assert store.head("main/packs/1").size_bytes == 4096
        assert store.get_range("main/packs/1", 4090, 20) == bytes(range(250, 256))
        assert store.get_range("main/packs/1", 5000, 20) == b""
        ranges = [(256, 2), (0, 3), (4090, 20)]
        found = [bytes(piece) for piece in store.get_ranges("main/packs/1", ranges)]
        assert found == [b"\x00\x01", b"\x00\x01\x02", bytes(range(250, 256))]
        for absent in ("main/new", "main/gone", "main/never", "main/packs"):
            assert not store.exists(absent)
            with pytest.raises(ObjectNotFound, match="There was no object"):
                store.get(absent)


def test_the_past_is_not_written(service: Service) -> None:
    place = versioned_place(service)
    ObjectStore(place, service.options).put("main/a", b"a")
    then = PastStore(place, service.options, datetime.now(UTC) + timedelta(seconds=2))
    with pytest.raises(StoreDenied, match="is not written"):
        then.put("main/b", b"b")
    with pytest.raises(StoreDenied, match="is not written"):
        then.replace("main/a", b"b", etag=then.head("main/a").etag)
    assert isinstance(then.delete(["main/a"])["main/a"], StoreDenied)
    assert [info.key for info in ObjectStore(place, service.options).list()] == ["main/a"]


def test_many_versions_are_listed_to_the_end(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of the listing ends within the versions of one key."""
    place = versioned_place(service)
    now = ObjectStore(place, service.options)
    for number in range(10):
        now.put("main/lease", b"%d" % number)
    now.put("main/z", b"z")
    monkeypatch.setattr(versions, "PAGE", 4)
    then = PastStore(place, service.options, datetime.now(UTC) + timedelta(seconds=2))
    assert [info.key for info in then.list()] == ["main/lease", "main/z"]
    assert then.get("main/lease") == b"9"


def test_a_bucket_without_versions_is_refused(service: Service) -> None:
    with pytest.raises(ConfigError, match="keeps no versions"):
        PastStore(service.new_place(), service.options, datetime.now(UTC))


def test_of_one_second_the_object_counts_and_not_its_deletion() -> None:
    second = datetime(2026, 11, 20, 14, 3, 7, tzinfo=UTC)

    def version(name: str, *, is_mark: bool) -> Version:
        return Version(check_key("k"), name, second, 1, "", is_mark)

    newest_first = [version("object", is_mark=False), version("mark", is_mark=True)]
    found = as_of(newest_first, second)
    assert found is not None
    assert found.id == "object"
    assert as_of(newest_first, second - timedelta(seconds=1)) is None
