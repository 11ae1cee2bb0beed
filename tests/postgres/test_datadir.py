"""A data directory is read rightly while a server writes to it, and never taken for another."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from pgkeep.errors import BrokenServerFile, LocalIOError, WrongDataDirectory
from pgkeep.postgres import datadir
from pgkeep.postgres.connection import connect
from tests.installations import Installation
from tests.servers import PgServer


@pytest.fixture
def pgdata(newest_installation: Installation, server_tmp: Path) -> Path:
    return PgServer.create(newest_installation, root=server_tmp).pgdata


def test_what_and_whose_it_is(pgdata: Path, newest_installation: Installation) -> None:
    assert datadir.read_version(pgdata) == newest_installation.major
    assert datadir.read_control(pgdata).major == newest_installation.major
    assert datadir.owner(pgdata) == (pgdata.stat().st_uid, pgdata.stat().st_gid)


def test_a_torn_pg_control_is_read_again(pgdata: Path) -> None:
    path = pgdata / "global" / "pg_control"
    whole = path.read_bytes()
    pauses: list[float] = []

    def mend(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            path.write_bytes(whole)

    path.write_bytes(b"\0" * 100 + whole[100:])
    data, control = datadir.read_control_bytes(pgdata, pause=mend)
    assert (data, len(pauses)) == (whole, 4)
    assert control == datadir.read_control(pgdata)


def test_a_damaged_pg_control_is_refused_after_five_reads(pgdata: Path) -> None:
    path = pgdata / "global" / "pg_control"
    path.write_bytes(path.read_bytes()[:200] + b"\xff" + path.read_bytes()[201:])
    pauses: list[float] = []
    with pytest.raises(BrokenServerFile, match="checksum"):
        datadir.read_control(pgdata, pause=pauses.append)
    assert len(pauses) == 4


def test_another_directory_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(WrongDataDirectory, match="no PG_VERSION"):
        datadir.read_version(tmp_path)
    with pytest.raises(WrongDataDirectory, match="no global/pg_control"):
        datadir.read_control(tmp_path)
    (tmp_path / "PG_VERSION").write_text("nine\n")
    with pytest.raises(BrokenServerFile, match="nine"):
        datadir.read_version(tmp_path)
    (tmp_path / "global" / "pg_control").mkdir(parents=True)
    with pytest.raises(LocalIOError, match="directory"):
        datadir.read_control(tmp_path)


def test_a_running_server_is_seen_and_a_stopped_one_is_not(server: PgServer) -> None:
    assert datadir.postmaster_running(server.pgdata) == server.pid
    server.kill9()
    assert (server.pgdata / "postmaster.pid").exists()
    assert datadir.postmaster_running(server.pgdata) is None
    server.start()
    server.stop()
    assert datadir.postmaster_running(server.pgdata) is None


def test_a_pid_file_counts_only_while_its_process_lives(tmp_path: Path) -> None:
    lock = tmp_path / "postmaster.pid"
    with subprocess.Popen(["sleep", "60"]) as process:
        lock.write_text(f"-{process.pid}\n{tmp_path}\n")
        assert datadir.postmaster_running(tmp_path) == process.pid
        process.kill()
        process.wait()
        assert datadir.postmaster_running(tmp_path) is None
    for content in ("", "x\n", "0\n", f"{os.getpid()}\n", f"{os.getppid()}\n", "9" * 30 + "\n"):
        lock.write_text(content)
        assert datadir.postmaster_running(tmp_path) is None


def test_configuration_outside_the_data_directory_is_found(
    server: PgServer, server_tmp: Path
) -> None:
    outside = server_tmp / "etc"
    (outside / "conf.d").mkdir(parents=True)
    main = outside / "postgresql.conf"
    main.write_text(
        "include_dir = 'conf.d'\ninclude 'extra.conf'\ninclude_if_exists 'gone.conf'\n"
        "include_if_exists 'postgresql.conf'\n"
    )
    for name in ("conf.d/b.conf", "conf.d/a.conf", "conf.d/.hidden.conf", "conf.d/x", "extra.conf"):
        (outside / name).write_text("")
    (outside / "extra.conf").write_text(f"include '{server.pgdata}/postgresql.conf'\n")
    (outside / "pg_hba.conf").write_text("")
    with connect(server.conninfo + " dbname=postgres") as connection:
        facts = connection.server_facts()
    assert datadir.external_config_files(facts, server.pgdata) == []
    moved = replace(facts, config_file=str(main), hba_file=str(outside / "pg_hba.conf"))
    expected = ["postgresql.conf", "conf.d/a.conf", "conf.d/b.conf", "extra.conf", "pg_hba.conf"]
    assert datadir.external_config_files(moved, server.pgdata) == [
        str(outside / name) for name in expected
    ]


def test_a_data_directory_seen_at_another_path_keeps_its_own_files(
    server: PgServer, server_tmp: Path
) -> None:
    with connect(server.conninfo + " dbname=postgres") as connection:
        facts = connection.server_facts()
    elsewhere = server_tmp / "link"
    elsewhere.symlink_to(server.pgdata)
    assert datadir.external_config_files(facts, elsewhere) == []
