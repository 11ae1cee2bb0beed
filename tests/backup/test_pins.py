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


class Clock:
    """Ours and the store's."""

    def __init__(self, pin: Pin, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.now = store, 0.0
        put = store.put

        def put_later(*args: Any, **more: Any) -> ObjectInfo:
            info = put(*args, **more)
            return info._replace(modified=info.modified + timedelta(seconds=self.now))

        monkeypatch.setattr(pins, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(store, "put", put_later)

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
def publish(repository: Any) -> Callable[[], ObjectInfo]:
    return lambda: repository.store.put(LAYOUT.manifest(BACKUP), b"manifest", if_absent=True)


def pins_of(repository: Any) -> list[str]:
    return [info.key for info in repository.store.list(LAYOUT.pins)]


def voids(repository: Any) -> list[str]:
    return [info.key for info in repository.store.list(LAYOUT.voids)]


def test_a_pin_is_made_first_and_renewed_in_time(pin: Pin, repository: Any, clock: Clock) -> None:
    for _ in range(48):
        pin.renew()
        clock.hours(1)
    assert pins_of(repository) == [LAYOUT.pin(ATTEMPT, number) for number in range(1, 9)]
    members = parse_record(repository.store.get(LAYOUT.pin(ATTEMPT, 1)), "pin", kind="pin")
    assert (members["attempt"], members["purpose"], members["backup"]) == (ATTEMPT, "backup", None)


def test_a_living_pin_confirms(
    pin: Pin, repository: Any, clock: Clock, publish: Callable[[], ObjectInfo]
) -> None:
    for _ in range(100):
        pin.renew()
        clock.hours(6)
    clock.hours(60)
    pin.confirm(BACKUP, publish())
    assert voids(repository) == []


@pytest.mark.parametrize("renewed", [False, True], ids=["before the end", "before a renewal"])
def test_a_pin_that_had_died_takes_the_backup_back(
    pin: Pin,
    repository: Any,
    clock: Clock,
    publish: Callable[[], ObjectInfo],
    renewed: bool,
) -> None:
    pin.renew()
    clock.hours(73)
    if renewed:
        pin.renew()
    with pytest.raises(BackupError, match="had expired"):
        pin.confirm(BACKUP, publish())
    assert voids(repository) == [LAYOUT.void(BACKUP)]
    members = parse_record(repository.store.get(LAYOUT.void(BACKUP)), "void", kind="void")
    assert members["backup"] == BACKUP


def condemn(repository: Any, number: int, kind: str, *keys: str) -> None:
    members = {"keys": [*keys], "grace_seconds": 3600}
    record = build_record(kind, members, at=AT, by=BY)
    repository.store.put(f"{LAYOUT.admin('condemned')}{number:08d}", record)


@pytest.mark.parametrize(
    ("records", "void"),
    [
        ([], False),
        ([("condemned", 1)], True),
        ([("condemned", 1), ("spared", 1)], False),
        ([("spared", 1), ("condemned", 1)], True),
        ([("condemned", 1), ("condemned", 2), ("spared", 2)], True),
    ],
)
def test_condemned_packs_take_the_backup_back(
    pin: Pin,
    repository: Any,
    publish: Callable[[], ObjectInfo],
    records: list[tuple[str, int]],
    void: bool,
) -> None:
    pin.renew()
    other = LAYOUT.pack("ef" * 16, 1)
    condemn(repository, 1, "condemned", other)
    for number, (kind, pack) in enumerate(records, start=2):
        condemn(repository, number, kind, LAYOUT.pack(ATTEMPT, pack), other)
    if void:
        with pytest.raises(BackupError, match="condemned"):
            pin.confirm(BACKUP, publish())
    else:
        pin.confirm(BACKUP, publish())
    assert bool(voids(repository)) == void
