"""Settings of dumps: what is understood, what is refused, and what single databases may say."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgkeep.config import load_settings
from pgkeep.config.dumps import (
    DatabaseSettings,
    parse_compression,
    parse_names,
    parse_options,
    parse_parts,
    split_options,
)
from pgkeep.dump.options import DumpOptions
from pgkeep.errors import ConfigError


def test_options_that_are_ours_to_say_are_refused() -> None:
    assert parse_options("--no-comments --lock-wait-timeout='5 s' -O") == (
        *("--no-comments", "--lock-wait-timeout=5 s", "-O"),
    )
    for text in ("-f x", "-Fd", "--format=d", "--file=x", "-d x", "--dbname=x", "-j4", "--forma=d"):
        with pytest.raises(ValueError):
            parse_options(text)
    # Among other letters, and by a beginning of one letter, which pg_dump takes as well.
    for text in ("-vFp", "-OvFp", "-vf x", "-xj 4", "--j=4", "--u x", "-vV"):
        with pytest.raises(ValueError):
            parse_options(text)
    # What is another option's value is none.
    assert parse_options("-vnFp -t -Fp -NC") == ("-vnFp", "-t", "-Fp", "-NC")


def test_options_are_told_from_their_values() -> None:
    words = ["-vOn", "shop", "-Tt*", "--table", "a", "--no-comments", "-s", "--exclude-table=b=c"]
    assert split_options(words) == [
        *(("-v", None), ("-O", None), ("-n", "shop"), ("-T", "t*"), ("--table", "a")),
        *(("--no-comments", None), ("-s", None), ("--exclude-table", "b=c")),
    ]
    assert split_options(["stray", "-n"]) == [("", "stray"), ("-n", None)]


def test_words_are_understood() -> None:
    assert parse_names("a, b ,c*") == ("a", "b", "c*")
    assert parse_names("none") == ()
    assert parse_parts("all") == {"globals", "passwords", "settings", "access"}
    assert parse_parts("none") == frozenset()
    assert parse_compression("zstd:level=3,long") == "zstd:level=3,long"
    for call, text in ((parse_parts, "roles"), (parse_compression, "brotli")):
        with pytest.raises(ValueError):
            call(text)


def test_a_database_says_what_differs_and_the_rest_is_as_for_all(tmp_path: Path) -> None:
    file = tmp_path / "pgkeep.toml"
    file.write_text(
        'dump_exclude = ["*_test"]\ndump_format = "plain"\ndump_options = ["--no-comments"]\n'
        '[databases."Odd, one"]\nformat = "directory"\njobs = 3\ntables = "a, b"\n'
    )
    settings = load_settings({}, config_file=str(file))
    assert settings.dump_exclude == ("*_test",)
    options = DumpOptions(
        "main",
        "host",
        {},
        format=settings.dump_format,
        extra=settings.dump_options,
        databases=settings.databases,
    )
    own = options.of("Odd, one")
    assert (own.format, own.jobs, own.tables, own.options) == (
        *("directory", 3, ("a", "b"), ("--no-comments",)),
    )
    assert options.of("other") == DatabaseSettings("plain", None, 1, options=("--no-comments",))


@pytest.mark.parametrize(
    "text",
    [
        '[databases.a]\nfromat = "plain"\n',
        '[databases.a]\nformat = "zip"\n',
        "[databases.a]\njobs = 0\n",
        'databases = "a"\n',
        '[databases.a]\noptions = "-f x"\n',
    ],
)
def test_what_is_not_understood_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pgkeep.toml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_settings({}, config_file=str(file))
