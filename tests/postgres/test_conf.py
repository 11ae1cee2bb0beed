"""Values that we write into a configuration file are the values that the server reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.postgres.conf import (
    Include,
    parse_conf,
    parse_includes,
    quote_conf_value,
    remove_recovery_settings,
    remove_settings,
    set_settings,
)
from tests.servers import PgServer

values = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60)
names = st.sampled_from(["restore_command", "recovery_target", "my.setting", "Work_Mem"])
AWKWARD = [
    "",
    "plain",
    "it's",
    "''",
    "'",
    "\\",
    "\\'",
    "a\\nb",
    "line\nbreak",
    "cr\r",
    "tab\t",
    "# no comment",
    "test ! -f '/x y/%f' && cp \"%p\" /x\\ y/%f",
    "ünïcödé 🐘",
    "=",
    " spaces ",
]


@given(values)
def test_a_quoted_value_is_one_line_and_reads_back(value: str) -> None:
    text = f"name = {quote_conf_value(value)}"
    assert "\n" not in text
    assert parse_conf(text) == [("name", value)]


@given(st.dictionaries(names, values, max_size=4), values)
def test_what_was_set_is_there_once_and_in_order(settings: dict[str, str], noise: str) -> None:
    before = "# a comment\nport = 5433\nRESTORE_COMMAND 'old'\nmy.setting=1\nwork_mem = 4MB # x"
    before += "\n# " + noise.replace("\n", " ").replace("\r", " ") + "\n"
    after = set_settings(before, settings)
    wanted = [(name.lower(), value) for name, value in settings.items()]
    found = parse_conf(after)
    assert found[len(found) - len(wanted) :] == wanted
    assert [name for name, _ in found].count("restore_command") == 1
    assert set_settings(after, settings) == after
    assert after.startswith("# a comment\nport = 5433\n")


def test_lines_are_removed_whatever_their_case_and_spelling() -> None:
    text = "A=1\n a = 2\na 3\n# a = 4\nab = 5\na.b = 6\n\ta='7'\n"
    assert remove_settings(text, ["A"]) == "# a = 4\nab = 5\na.b = 6\n"


def test_a_missing_last_line_end_does_not_join_two_settings() -> None:
    assert set_settings("port = 1", {"a": "2"}) == "port = 1\na = '2'\n"


def test_old_recovery_settings_go_and_all_else_stays() -> None:
    text = (
        "port = 5432\nrestore_command = 'cp x %p'\nRecovery_Target_Time = 'then'\n"
        "primary_conninfo = 'host=p'\nrecovery_target_timeline=latest\nwork_mem = 1MB\n"
    )
    assert remove_recovery_settings(text) == "port = 5432\nwork_mem = 1MB\n"


def test_includes_are_found_and_are_no_settings() -> None:
    text = "include_dir = 'conf.d'\ninclude 'a b.conf' # x\nInclude_If_Exists=c.conf\nport=1\n"
    assert parse_includes(text) == [
        Include("include_dir", "conf.d"),
        Include("include", "a b.conf"),
        Include("include_if_exists", "c.conf"),
    ]
    assert parse_conf(text) == [("port", "1")]


def test_a_nul_byte_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="NUL"):
        quote_conf_value("a\0b")


def test_the_server_reads_awkward_values_as_we_wrote_them(server: PgServer) -> None:
    written = {f"pgkeep_test.v{number}": value for number, value in enumerate(AWKWARD)}
    path = server.pgdata / "postgresql.auto.conf"
    path.write_text(set_settings(path.read_text(), written), newline="")
    with server.connect() as connection:
        rows = connection.execute(
            "SELECT name, setting FROM pg_file_settings WHERE name LIKE 'pgkeep_test%'"
        ).fetchall()
    assert dict(rows) == written


def test_we_read_lines_as_the_server_reads_them(server: PgServer) -> None:
    lines = [
        "pgkeep_test.a=1",
        "  pgkeep_test.b   'two'",
        "PGKEEP_TEST.c = 3 # note",
        r"pgkeep_test.d = 'x\tq\101\'y''z'",
        "pgkeep_test.e = -5MB",
        "pgkeep_test.f = a/path-1.conf:x",
        "pgkeep_test.g = ''",
        "\tpgkeep_test.h\t=\t'8'\t",
    ]
    path = server.pgdata / "postgresql.auto.conf"
    path.write_text("\n".join(lines) + "\n")
    with server.connect() as connection:
        rows = connection.execute(
            "SELECT lower(name), setting FROM pg_file_settings "
            "WHERE lower(name) LIKE 'pgkeep_test%' ORDER BY seqno"
        ).fetchall()
    assert parse_conf(path.read_text()) == rows
