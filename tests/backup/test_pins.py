"""A backup whose packs a sweep may take does not count (format, section 11)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pgkeep.backup import pins
from pgkeep.backup.pins import Pin
from pgkeep.errors import BackupError
from pgkeep.repository.record import build_record, parse_record
from pgkeep.storage.interface import ObjectInfo
from tests.repository.kit import AT, BY, LAYOUT, make_repository

ATTEMPT = "cd" * 16
BACKUP = "20261120T120000Z"
OWN = LAYOUT.pack(ATTEMPT, 1)
TAKEN_OVER, OTHER = LAYOUT.pack("ef" * 16, 1), LAYOUT.pack("ef" * 16, 2)


class Clock:
    """Ours and the store's."""

    def __init__(self, pin: Pin, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.now = store, 0.0
        put, head = store.put, store.head
        written: dict[str, float] = {}

        def put_later(key: str, *args: Any, **more: Any) -> str:
            written[key] = self.now
            return str(put(key, *args, **more))

        def head_later(key: str) -> ObjectInfo:
            info: ObjectInfo = head(key)
            return info._replace(modified=info.modified + timedelta(seconds=written[key]))

        monkeypatch.setattr(pins, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(store, "put", put_later)
        monkeypatch.setattr(store, "head", head_later)

    def hours(self, hours: float) -> None:
        self.now += hours * 3600


@pytest.fixture
def repository(tmp_path: Path) -> Any:
    return make_repository(tmp_path)[0]


@pytest.fixture
def pin(repository: Any) -> Pin:
    return Pin(
        SimpleNamespace(id=ATTEMPT, repository=repository, layout=LAYOUT, by=lambda: BY)  # type: ignore[arg-type]
    )


@pytest.fixture
def clock(pin: Pin, repository: Any, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(pin, repository.store, monkeypatch)


@pytest.fixture
def publish(repository: Any) -> Callable[[], str]:
    return lambda: repository.store.put(LAYOUT.manifest(BACKUP), b"manifest", if_absent=True)


def pins_of(repository: Any) -> list[str]:
    return [info.key for info in repository.store.list(LAYOUT.pins)]


def voids(repository: Any) -> list[str]:
    return [info.key for info in repository.store.list(LAYOUT.voids)]


def confirm(pin: Pin, *, packs: list[str]) -> None:
    """As it is done when the manifest has been created."""
    doubt = pin.doubt(BACKUP, packs=packs)
    if doubt is not None:
        pin.take_back(BACKUP, doubt)


def test_a_pin_is_made_first_and_renewed_in_time(pin: Pin, repository: Any, clock: Clock) -> None:
    for _ in range(48):
        pin.renew()
        clock.hours(1)
    assert pins_of(repository) == [LAYOUT.pin(ATTEMPT, number) for number in range(1, 9)]
    members = parse_record(repository.store.get(LAYOUT.pin(ATTEMPT, 1)), "pin", kind="pin")
    assert (members["attempt"], members["purpose"], members["backup"]) == (ATTEMPT, "backup", None)


def test_a_living_pin_confirms(
    pin: Pin, repository: Any, clock: Clock, publish: Callable[[], str]
) -> None:
    for _ in range(100):
        pin.renew()
        clock.hours(6)
    clock.hours(60)
    publish()
    confirm(pin, packs=[OWN])
    assert voids(repository) == []


@pytest.mark.parametrize("renewed", [False, True], ids=["before the end", "before a renewal"])
def test_a_pin_that_had_died_takes_the_backup_back(
    pin: Pin,
    repository: Any,
    clock: Clock,
    publish: Callable[[], str],
    renewed: bool,
) -> None:
    pin.renew()
    clock.hours(73)
    if renewed:
        pin.renew()
    publish()
    with pytest.raises(BackupError, match="had expired"):
        confirm(pin, packs=[OWN])
    assert voids(repository) == [LAYOUT.void(BACKUP)]
    members = parse_record(repository.store.get(LAYOUT.void(BACKUP)), "void", kind="void")
    assert members["backup"] == BACKUP


def test_a_pin_names_the_parent_once_there_is_one(pin: Pin, repository: Any, clock: Clock) -> None:
    pin.renew()
    for parent in ("20261119T020000Z", "20261118T020000Z", "20261118T020000Z", None):
        pin.work_from(parent)
        assert pin.parent == parent
    pin.work_from("20261117T020000Z")
    clock.hours(7)
    pin.renew()
    named = [
        parse_record(repository.store.get(key), "pin", kind="pin")["backup"]
        for key in pins_of(repository)
    ]
    assert [name and name[6:8] for name in named] == [None, "19", "18", None, "17", "17"]


def test_a_pin_of_an_attempt_that_has_none_may_name_the_parent_at_once(
    pin: Pin, repository: Any
) -> None:
    pin.work_from(None)
    assert pins_of(repository) == [LAYOUT.pin(ATTEMPT, 1)]


def condemn(repository: Any, number: int, kind: str, *keys: str) -> None:
    members = {"keys": [*keys], "grace_seconds": 3600}
    record = build_record(kind, members, at=AT, by=BY)
    repository.store.put(f"{LAYOUT.admin('condemned')}{number:08d}", record)


@pytest.mark.parametrize(
    ("records", "void"),
    [
        ([], False),
        ([("condemned", OWN)], True),
        ([("condemned", TAKEN_OVER)], True),
        ([("condemned", OTHER)], False),
        ([("condemned", OWN), ("spared", OWN)], False),
        ([("condemned", TAKEN_OVER), ("spared", OWN)], True),
    ],
)
def test_condemned_packs_take_the_backup_back(
    pin: Pin,
    repository: Any,
    publish: Callable[[], str],
    records: list[tuple[str, str]],
    void: bool,
) -> None:
    """Those of this attempt, and those of its parents that the manifest names, too."""
    pin.renew()
    for number, (kind, pack) in enumerate(records, start=1):
        condemn(repository, number, kind, pack)
    publish()
    if void:
        with pytest.raises(BackupError, match="condemned"):
            confirm(pin, packs=[OWN, TAKEN_OVER])
    else:
        confirm(pin, packs=[OWN, TAKEN_OVER])
    assert bool(voids(repository)) == void
