"""A backup on a later timeline exists only together with the history file of that timeline."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.backup.history import ensure_history
from pgkeep.errors import ArchivingNotWorking, LocalIOError, WalConflict
from pgkeep.repository.identity import Repository
from pgkeep.repository.wal import open_wal_object
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.repository.kit import LAYOUT, make_repository, put_history
from tests.restore.site import Site

NAME = "00000002.history"
CONTENT = b"1\t0/3000000\tno recovery target specified\n"
KEY = LAYOUT.wal_file(NAME)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path)[0]


@pytest.fixture
def pgdata(tmp_path: Path) -> Path:
    """With the history file of timeline 2."""
    (tmp_path / "data" / "pg_wal").mkdir(parents=True)
    (tmp_path / "data" / "pg_wal" / NAME).write_bytes(CONTENT)
    return tmp_path / "data"


def ensure(repository: Repository, pgdata: Path, timeline: int = 2) -> bool:
    return ensure_history(repository, LAYOUT, timeline, pgdata=pgdata, host="test")


def stored(repository: Repository) -> bytes:
    header, frames = open_wal_object(repository.store.get(KEY), KEY, repository.keyring)
    assert (header.kind, header.ancestors) == ("history", [[1, "0/3000000"]])
    return b"".join(frames)


def test_what_is_not_stored_is_pushed_once(repository: Repository, pgdata: Path) -> None:
    assert ensure(repository, pgdata) is True
    assert stored(repository) == CONTENT
    before = repository.store.get(KEY)
    assert ensure(repository, pgdata) is False
    assert repository.store.get(KEY) == before


def test_first_timeline_needs_none(repository: Repository, tmp_path: Path) -> None:
    assert ensure(repository, tmp_path / "nowhere", timeline=1) is False


def test_stored_one_suffices(repository: Repository, pgdata: Path) -> None:
    (pgdata / "pg_wal" / NAME).unlink()
    put_history(repository, 2, CONTENT)
    assert ensure(repository, pgdata) is False


def test_another_one_under_its_name_is_another_server(repository: Repository, pgdata: Path) -> None:
    put_history(repository, 2, CONTENT.replace(b"0/3000000", b"0/5000000"))
    before = repository.store.get(KEY)
    with pytest.raises(WalConflict, match=NAME):
        ensure(repository, pgdata)
    assert repository.store.get(KEY) == before


def test_nowhere_to_be_found_is_a_refusal(repository: Repository, pgdata: Path) -> None:
    (pgdata / "pg_wal" / NAME).unlink()
    with pytest.raises(ArchivingNotWorking, match=NAME) as caught:
        ensure(repository, pgdata)
    assert caught.value.remedy


def test_unreadable_is_not_taken_for_absent(repository: Repository, pgdata: Path) -> None:
    (pgdata / "pg_wal" / NAME).unlink()
    (pgdata / "pg_wal" / NAME).mkdir()
    with pytest.raises(LocalIOError, match=NAME):
        ensure(repository, pgdata)


# -- a server that was promoted while it did not archive -------------------------------------


@pytest.fixture
def site(server_factory: ServerFactory) -> Iterator[Site]:
    made = Site(server_factory)
    yield made
    server_factory.close()
    made.close()


@pytest.mark.end_to_end
def test_backup_of_a_copy_that_never_archived_its_history_restores(site: Site) -> None:
    site.server.psql("CREATE TABLE t AS SELECT 1 AS what")
    site.backup()
    site.server.wait_archived()
    site.server.stop()

    # It takes the original's place, and archives with a command that takes segments only.
    copy = site.recovered(site.restore("copy"))
    assert copy.psql("SHOW archive_mode") == "off"
    copy.stop()
    (copy.pgdata / "pgkeep.copy").unlink()
    segments = f"case %f in *.history) true ;; *) {site.archive_command()} ;; esac"
    copy.configure({"archive_mode": "on", "archive_command": segments})
    (copy.pgdata / "postgresql.auto.conf").write_text("")
    copy.start()
    copy.psql("INSERT INTO t VALUES (2)")
    copy.wait_archived()
    forgotten = site.repository_path / site.layout.wal_file(NAME)
    forgotten.unlink(missing_ok=True)

    history = copy.pgdata / "pg_wal" / NAME
    os.rename(history, aside := site.root / NAME)  # noqa: PTH104
    with pytest.raises(ArchivingNotWorking, match=NAME):
        site.backup(copy)
    os.rename(aside, history)  # noqa: PTH104
    head = site.backup(copy).head
    assert (head.timeline, forgotten.exists()) == (2, True)

    copy.psql("INSERT INTO t VALUES (3)")
    copy.wait_archived()
    digest = cluster_digest(copy)
    copy.stop()
    plan = site.plan("again")
    assert (plan.resolution.backup.id, plan.resolution.timeline) == (head.backup, 2)
    assert_same_digest(digest, cluster_digest(site.recovered(site.restore("again"))))
