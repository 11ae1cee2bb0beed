"""What belongs to a backup: everything that the server would need, once, and nothing else."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from pgkeep.backup.source import CONTROL_FILE, outside_file, walk_data_directory
from pgkeep.errors import LocalIOError, WrongDataDirectory

FOLDER = "PG_18_1"


def write(path: Path, content: str = "content") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def pgdata(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    for name in ("PG_VERSION", CONTROL_FILE, "base/5/16384", "pg_wal/000000010000000000000001"):
        write(path / name)
    (path / "pg_tblspc").mkdir()
    return path


def walk(pgdata: Path, *tablespaces: int) -> object:
    return walk_data_directory(pgdata, major=18, catalog_version=1, tablespaces=tablespaces)


def names(source: object) -> list[str]:
    return sorted(file.path for file in source.files)  # type: ignore[attr-defined]


def test_pg_control_and_wal_are_left_to_others(pgdata: Path) -> None:
    source = walk(pgdata)
    assert names(source) == ["PG_VERSION", "base/5/16384"]
    assert {"base/5", "pg_wal", "pg_wal/archive_status", "pg_wal/summaries"} <= {
        *source.directories  # type: ignore[attr-defined]
    }


def test_modes_times_and_inode_are_as_they_were(pgdata: Path) -> None:
    path = pgdata / "base/5/16384"
    path.chmod(0o640)
    (pgdata / "base").chmod(0o750)
    found = path.stat()
    source = walk(pgdata)
    (file,) = [file for file in source.files if file.path == "base/5/16384"]  # type: ignore[attr-defined]
    assert (file.size_bytes, file.mode, file.inode) == (7, 0o640, found.st_ino)
    assert (file.mtime_us, file.ctime_us) == (found.st_mtime_ns // 1000, found.st_ctime_ns // 1000)
    assert source.directories["base"] == 0o750  # type: ignore[attr-defined]


def test_a_tablespace_is_a_link_and_only_this_versions_folder_is_its(
    pgdata: Path, tmp_path: Path
) -> None:
    place = tmp_path / "space"
    write(place / FOLDER / "5" / "16400")
    write(place / "PG_17_0" / "5" / "16400")
    write(place / "notes")
    (pgdata / "pg_tblspc/16390").symlink_to(place)
    source = walk(pgdata, 16390)
    assert source.links == {"pg_tblspc/16390": str(place)}  # type: ignore[attr-defined]
    assert f"pg_tblspc/16390/{FOLDER}/5/16400" in names(source)
    assert not [name for name in names(source) if "PG_17_0" in name or "notes" in name]
    assert "pg_tblspc/16390" not in source.directories  # type: ignore[attr-defined]
    assert f"pg_tblspc/16390/{FOLDER}/5" in source.directories  # type: ignore[attr-defined]


def test_a_tablespace_in_place_is_a_directory(pgdata: Path) -> None:
    write(pgdata / "pg_tblspc/16390" / FOLDER / "5" / "16400")
    source = walk(pgdata, 16390)
    assert source.links == {}  # type: ignore[attr-defined]
    assert {"pg_tblspc/16390", f"pg_tblspc/16390/{FOLDER}"} <= {*source.directories}  # type: ignore[attr-defined]
    assert f"pg_tblspc/16390/{FOLDER}/5/16400" in names(source)


@pytest.mark.parametrize("there", [False, True], ids=["dangling link", "empty directory"])
def test_a_tablespace_of_the_server_that_is_not_seen_here_is_refused(
    pgdata: Path, tmp_path: Path, there: bool
) -> None:
    """A container of our own has the data directory, and not what its links lead to."""
    place = tmp_path / "elsewhere"
    if there:
        place.mkdir()
    (pgdata / "pg_tblspc/16390").symlink_to(place)
    with pytest.raises(WrongDataDirectory) as caught:
        walk(pgdata, 16390)
    assert caught.value.exit_code == 11
    assert str(place) in str(caught.value)
    assert "Mount" in str(caught.value)


def test_the_remains_of_a_dropped_tablespace_are_reported_and_no_error(
    pgdata: Path, tmp_path: Path
) -> None:
    (pgdata / "pg_tblspc/16390").symlink_to(tmp_path / "elsewhere")
    assert walk(pgdata).left_out == ["pg_tblspc/16390"]  # type: ignore[attr-defined]


def test_a_tablespace_inside_the_data_directory_is_taken_once_and_as_a_tablespace(
    pgdata: Path,
) -> None:
    write(pgdata / "aspace" / FOLDER / "5" / "16400")
    (pgdata / "pg_tblspc/16390").symlink_to(pgdata / "aspace")
    source = walk(pgdata, 16390)
    assert [name for name in names(source) if "16400" in name] == [
        f"pg_tblspc/16390/{FOLDER}/5/16400"
    ]
    assert source.left_out == ["aspace"]  # type: ignore[attr-defined]


def test_a_link_beside_a_directory_does_not_take_its_files(pgdata: Path) -> None:
    (pgdata / "aaa").symlink_to(pgdata / "base")
    (pgdata / "self").symlink_to(pgdata)
    source = walk(pgdata)
    assert names(source) == ["PG_VERSION", "base/5/16384"]
    assert sorted(source.left_out) == ["aaa", "self"]  # type: ignore[attr-defined]


def test_what_an_administrator_moved_is_stored_in_its_place(pgdata: Path, tmp_path: Path) -> None:
    write(tmp_path / "fast" / "16500")
    (pgdata / "base/6").symlink_to(tmp_path / "fast")
    (pgdata / "server.key").symlink_to(write(tmp_path / "key"))
    (pgdata / "log").symlink_to(tmp_path / "logs")
    write(tmp_path / "logs" / "monday.log")
    source = walk(pgdata)
    assert {"base/6/16500", "server.key", "log/monday.log"} <= {*names(source)}
    assert source.links == {}  # type: ignore[attr-defined]
    assert {"base/6", "log"} <= {*source.directories}  # type: ignore[attr-defined]


def test_pg_wal_elsewhere_is_an_empty_directory(pgdata: Path, tmp_path: Path) -> None:
    (pgdata / "pg_wal").rename(tmp_path / "wal")
    (pgdata / "pg_wal").symlink_to(tmp_path / "wal")
    source = walk(pgdata)
    assert "pg_wal" in source.directories  # type: ignore[attr-defined]
    assert not [name for name in names(source) if name.startswith("pg_wal")]


def test_what_is_no_file_is_left_out_and_reported(pgdata: Path) -> None:
    os.mkfifo(pgdata / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(pgdata / "s"))
    (pgdata / "dangling").symlink_to("nowhere")
    (pgdata / "loop").symlink_to("loop")
    source = walk(pgdata)
    assert sorted(source.left_out) == ["dangling", "loop", "pipe", "s"]  # type: ignore[attr-defined]
    assert names(source) == ["PG_VERSION", "base/5/16384"]


def test_unlogged_tables_keep_their_init_fork_only(pgdata: Path) -> None:
    for name in ("16500", "16500.1", "16500_fsm", "16500_vm", "16500_init", "16501"):
        write(pgdata / "base/5" / name)
    found = [name for name in names(walk(pgdata)) if name.startswith("base/5/")]
    assert found == ["base/5/16384", "base/5/16500_init", "base/5/16501"]


def test_a_directory_that_cannot_be_looked_into_is_an_error(
    pgdata: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("base/5"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(LocalIOError) as caught:
        walk(pgdata)
    assert "base/5" in caught.value.what


def test_a_data_directory_that_is_gone_is_no_empty_one(pgdata: Path) -> None:
    pgdata.rename(pgdata.with_name("moved"))
    with pytest.raises(LocalIOError):
        walk(pgdata)


def test_the_largest_files_come_first(pgdata: Path) -> None:
    for number in range(5):
        write(pgdata / f"base/5/{20000 + number}", "x" * 100 * number)
    sizes = [file.size_bytes for file in walk(pgdata).files]  # type: ignore[attr-defined]
    assert sizes == sorted(sizes, reverse=True)


def test_a_configuration_file_that_went_away_is_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "postgresql.conf")
    file = outside_file(str(path))
    assert file is not None
    assert (file.path, file.place) == (str(path), str(path))
    path.unlink()
    assert outside_file(str(path)) is None
