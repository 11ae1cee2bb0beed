"""Where a cluster and its tablespaces are restored to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgkeep.errors import UsageError
from pgkeep.repository.manifest import Tablespace
from pgkeep.restore.destination import Maker
from pgkeep.restore.plan import Owner
from pgkeep.restore.tablespaces import place_tablespaces

SPACES = [Tablespace(16401, "one", "/mnt/one"), Tablespace(16402, "two", "/mnt/two")]


def place(into: Path, **wanted: Path | str) -> list[Path]:
    given = {name: str(location) for name, location in wanted.items()}
    return [one.location for one in place_tablespaces(into, SPACES, given, standing={})]


def test_a_tablespace_has_a_place_of_its_own(tmp_path: Path) -> None:
    into, apart = tmp_path / "back", tmp_path / "apart"
    beside = tmp_path / "back.tablespaces"
    assert place(into) == [beside / "16401", beside / "16402"]
    assert place(into, one=apart / "1", two=apart / "2") == [apart / "1", apart / "2"]
    (tmp_path / "link").symlink_to(apart)
    for wanted in (
        {"one": into},
        {"one": into / "below"},
        {"one": tmp_path},
        {"one": apart, "two": apart},
        {"one": apart, "two": apart / "below"},
        {"one": apart / "below", "two": apart},
        {"one": apart, "two": tmp_path / "link"},
        {"two": beside / "16401"},
    ):
        with pytest.raises(UsageError, match="cannot be placed in"):
            place(into, **wanted)


def test_the_name_of_the_first_new_directory_is_made_durable_too(tmp_path: Path) -> None:
    """What is synced are directories, for the names in them."""
    maker = Maker(Owner(os.geteuid(), os.getegid(), "me", change=False))
    maker.root(tmp_path / "a" / "b" / "c")
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b"} <= set(maker.made)
