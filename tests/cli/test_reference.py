"""The reference pages say what the code does, and the error tree is the classes' own."""

from __future__ import annotations

import re

import pytest

from pgkeep.config import SETTINGS
from tools import reference


@pytest.mark.parametrize("name", ["commands.md", "configuration.md", "exit-codes.md"])
def test_page_is_current(name: str) -> None:
    written = (reference.FOLDER / name).read_text(encoding="utf-8")
    assert written == reference.pages()[name], "run: python -m tools.reference"


def test_every_error_stands_in_the_tree_with_its_exit_code() -> None:
    rows = reference.error_rows()
    assert len(rows) > 30
    codes = [code for _, code, _ in rows]
    assert len(codes) == len(set(codes)), "two errors share an exit code"


def test_the_page_of_stores_names_each_setting_and_no_other() -> None:
    page = (reference.FOLDER / "stores.md").read_text(encoding="utf-8")
    named = {name.removesuffix("_FILE") for name in re.findall(r"PGKEEP_[A-Z_]+", page)}
    known = {setting.variable.removesuffix("_FILE") for setting in SETTINGS if setting.stores}
    assert known <= named
    assert named - known <= {"PGKEEP_REPO"}


def test_every_option_stands_in_the_page() -> None:
    page = reference.pages()["commands.md"]
    for option in ("--recipient", "--time MOMENT", "--exclusive", "--nice", "--plan", "--json"):
        assert option in page
