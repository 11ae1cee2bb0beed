"""WAL headers and listings are judged without a key, so they must hold against anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgkeep.errors import DamagedObject
from pgkeep.repository.catalogue import read_inventory
from pgkeep.repository.identity import Repository
from pgkeep.repository.wal import WalHeader, read_wal_header
from pgkeep.repository.wal_inventory import read_histories
from pgkeep.seal import envelope
from pgkeep.seal.envelope import DATA, EnvelopeWriter
from tests.repository.kit import LAYOUT, SEGMENT, make_repository, put_history, put_segment

NAME = "000000010000000000000003"
GOOD = WalHeader(NAME, "segment", 7, "ab" * 16, "cd" * 32, "m", "p", "h")._asdict()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path)[0]


def forge(repository: Repository, name: str, header: Any) -> None:
    writer = EnvelopeWriter(repository.keyring, envelope.WAL, header=header, data=True)
    writer.add(b"content", kind=DATA, final=True)
    repository.store.put(LAYOUT.wal_file(name), writer.finish())


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 7},
        {"name": "000000010000000000000004"},
        {"size": "7"},
        {"size": -1},
        {"size": True},
        {"salt": "zz" * 16},
        {"salt": "ab"},
        {"salt": None},
        {"blake3": "cd"},
        {"modified": None},
        {"host": {}},
        {"ancestors": "x"},
        {"ancestors": [1]},
        {"ancestors": [[1, 2]]},
        {"ancestors": [["1", "0/0"]]},
    ],
)
def test_a_header_with_members_of_another_kind_is_damage(
    repository: Repository, changes: dict[str, Any]
) -> None:
    forge(repository, NAME, GOOD | changes)
    with pytest.raises(DamagedObject):
        read_wal_header(repository.store, LAYOUT.wal_file(NAME), repository.keyring)


@pytest.mark.parametrize("missing", [name for name in GOOD if name != "ancestors"])
def test_a_header_with_members_missing_is_damage(repository: Repository, missing: str) -> None:
    forge(repository, NAME, {name: value for name, value in GOOD.items() if name != missing})
    with pytest.raises(DamagedObject):
        read_wal_header(repository.store, LAYOUT.wal_file(NAME), repository.keyring)


def test_a_sound_header_comes_back_and_more_members_are_ignored(repository: Repository) -> None:
    forge(repository, NAME, GOOD | {"colour": "red"})
    header = read_wal_header(repository.store, LAYOUT.wal_file(NAME), repository.keyring)
    assert json.dumps(header._asdict()) == json.dumps(GOOD)


@pytest.mark.parametrize(
    "rows",
    [
        [[2, "0/1"]],
        [[3, "0/1"]],
        [[1, "0/2"], [1, "0/3"]],
        [[0, "0/2"]],
        [[1, "nowhere"]],
        [[1, "0/0"]],
        [[-1, "0/1"]],
        [[1 << 70, "0/1"]],
    ],
)
def test_ancestors_that_cannot_be_are_damage(repository: Repository, rows: Any) -> None:
    """Without them nobody can say which timelines descend from which."""
    header = GOOD | {"name": "00000002.history", "kind": "history", "ancestors": rows}
    forge(repository, "00000002.history", header)
    with pytest.raises(DamagedObject):
        read_histories(repository, LAYOUT)


def test_a_file_in_the_wrong_folder_is_not_there(repository: Repository) -> None:
    """wal-fetch would not find it either: a window that counts on it would be a lie."""
    name = put_segment(repository, 1, 3)
    data = repository.store.get(LAYOUT.wal_file(name))
    for key in (
        f"{LAYOUT.wal}0000000100000001/{NAME[:-1]}5",
        f"{LAYOUT.wal}{NAME[:-1]}6",
        f"{LAYOUT.wal}{NAME[:16]}/{NAME[:-1]}7x",
        f"{LAYOUT.wal}{NAME[:16]}/{NAME[:-2]}0a",
        f"{LAYOUT.wal}0000000000000000/000000000000000000000001",
        f"{LAYOUT.wal}0000000100000001/{NAME}.partial",
        f"{LAYOUT.wal}{NAME[:16]}/{NAME[:16]}FFFFFFFF",
        f"{LAYOUT.history}readme.txt",
        f"{LAYOUT.history}00000000.history",
    ):
        repository.store.put(key, data)
    repository.store.put(LAYOUT.wal_file(f"{NAME}.partial"), data)
    inventory = read_inventory(repository, LAYOUT, SEGMENT)
    assert {timeline: list(found) for timeline, found in inventory.segments.items()} == {1: [3]}
    assert inventory.partials == {f"{NAME}.partial"}
    assert inventory.histories == {}


def test_ancestors_that_gave_nothing_are_left_out(repository: Repository) -> None:
    """Timeline 2 was left before it was entered: who recovers to before it gets such a file."""
    put_history(repository, 3, b"1\t0/580000\tx\n2\t0/500000\ty\n")
    header = read_wal_header(
        repository.store, LAYOUT.wal_file("00000003.history"), repository.keyring
    )
    assert header.ancestors == [[1, "0/500000"]]
    assert [a.timeline for a in read_histories(repository, LAYOUT)[3].ancestors] == [1, 3]
