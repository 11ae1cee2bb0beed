"""Which files hold a relation's pages, and which page each begins with."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgkeep.postgres.relation import RelationFile, is_temporary_relation, parse_relation_path
from tests.servers import PgServer

oids = st.integers(1, 0xFFFFFFFF)


@given(oids, oids, oids, st.sampled_from(["main", "fsm", "vm", "init"]), st.integers(0, 40_000))
def test_every_path_that_the_server_makes_is_read(
    space: int, database: int, node: int, fork: str, segment: int
) -> None:
    name = f"{node}{'' if fork == 'main' else '_' + fork}{'' if segment == 0 else f'.{segment}'}"
    expected = RelationFile(database, node, fork, segment, None)
    assert parse_relation_path(f"base/{database}/{name}") == expected
    assert parse_relation_path(f"global/{name}") == expected._replace(database=0)
    inside = parse_relation_path(f"pg_tblspc/{space}/PG_18_202506291/{database}/{name}")
    assert inside == expected._replace(tablespace=space)
    assert expected.first_block(131072) == segment * 131072


@pytest.mark.parametrize(
    "path",
    [
        "PG_VERSION",
        "16384",
        "base/16384",
        "base/5/PG_VERSION",
        "base/5/pg_filenode.map",
        "base/5/pg_internal.init",
        "base/5/t3_16384",
        "base/5/16384_foo",
        "base/5/16384.0",
        "base/5/016384",
        "base/5/16384.01",
        "base/5/16384.1.2",
        "base/5/16384_fsm.tmp",
        "base/5/99999999999",
        "base/x/16384",
        "base/pgsql_tmp/16384",
        "global/pg_control",
        "global/pg_filenode.map",
        "pg_xact/0000",
        "pg_wal/16384",
        "pg_tblspc/16400/16384",
        "pg_tblspc/16400/other/5/16384",
    ],
)
def test_other_files_are_no_pages(path: str) -> None:
    assert parse_relation_path(path) is None


@pytest.mark.parametrize("name", ["t3_16384", "t30_1_fsm", "t3_16384_vm.2", "t3_16384.1"])
def test_temporary_relations_are_known(name: str) -> None:
    assert is_temporary_relation(name)


@pytest.mark.parametrize("name", ["16384", "t3", "t3_", "tx_1", "t3_1_foo", "t3_1.", "toast_1"])
def test_other_names_are_not_temporary(name: str) -> None:
    assert not is_temporary_relation(name)


def test_the_paths_of_a_real_server_are_all_read(server: PgServer) -> None:
    rows = server.psql(
        "SELECT pg_relation_filepath(oid), pg_relation_filenode(oid), relisshared "
        "FROM pg_class WHERE pg_relation_filenode(oid) IS NOT NULL"
    ).splitlines()
    assert len(rows) > 100
    for row in rows:
        path, node, shared = row.split("|")
        file = parse_relation_path(path)
        assert file is not None
        assert (file.relfilenode, file.database == 0) == (int(node), shared == "t")
