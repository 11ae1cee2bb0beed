"""LSNs read and print as PostgreSQL's own pg_lsn does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.postgres.lsn import Lsn, Timeline
from tests.servers import PgServer

positions = st.integers(0, (1 << 64) - 1)


@given(positions)
def test_every_position_survives_print_and_parse(value: int) -> None:
    assert Lsn.parse(str(Lsn(value))) == value


@given(positions)
def test_the_zero_padded_form_of_newer_servers_is_read(value: int) -> None:
    assert Lsn.parse(f"{value >> 32:X}/{value & 0xFFFFFFFF:08X}") == value


def test_an_lsn_is_a_plain_number_with_a_name() -> None:
    lsn = Lsn.parse("16/B374D848")
    assert lsn == 0x16B374D848
    assert f"{lsn}" == "16/B374D848"
    assert repr(lsn) == "Lsn('16/B374D848')"
    assert lsn + 8 == 0x16B374D850


@pytest.mark.parametrize(
    "text",
    ["", "/", "1", "1/", "/1", "G/0", "1/0x1", " 1/0", "1/0 ", "-1/0", "1/123456789", "1/0/0"],
)
def test_what_is_no_lsn_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        Lsn.parse(text)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_position_outside_the_log_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="not a position"):
        Lsn(value)


@pytest.mark.parametrize("value", [0, -1, 1 << 32])
def test_there_is_no_timeline_zero(value: int) -> None:
    with pytest.raises(ValueError, match="not a timeline"):
        Timeline(value)


def test_the_server_agrees(server: PgServer) -> None:
    samples = [0, 1, 0xFFFFFFFF, 1 << 32, 0x16B374D848, (1 << 64) - 1]
    printed = server.psql(";".join(f"SELECT '{Lsn(value)}'::pg_lsn - '0/0'" for value in samples))
    assert [int(line) for line in printed.splitlines()] == samples
