"""A restore over a copy of the original's directory does not follow its links to the original."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from pgkeep.errors import RestoreError
from pgkeep.restore import target
from tests.digest import assert_same_digest, cluster_digest
from tests.restore.site import Site
from tests.server_user import run_as_server_user, server_user
from tests.servers import new_directory


def copied(site: Site) -> Path:
    """The server's directory as ``cp -a`` copies it; the server runs on."""
    copy = site.root / "back"
    shutil.copytree(
        site.server.pgdata, copy, symlinks=True, ignore=shutil.ignore_patterns("postmaster.pid")
    )
    for path in (copy, *copy.rglob("*")):
        if not path.is_symlink():
            server_user().own(path)
    return copy


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_the_links_of_a_copy_do_not_lead_into_the_original(site: Site) -> None:
    server = site.server
    wal, space = new_directory("wal"), new_directory("space")
    server.stop()
    wal.rmdir()
    shutil.move(server.pgdata / "pg_wal", wal)
    (server.pgdata / "pg_wal").symlink_to(wal)
    server.start()
    server.psql(f"CREATE TABLESPACE apart LOCATION '{space}'")
    server.psql("CREATE TABLE t TABLESPACE apart AS SELECT generate_series(1, 1000) i")
    site.backup()
    server.psql("UPDATE t SET i = i + 1; CHECKPOINT")
    copy = copied(site)
    with pytest.raises(RestoreError, match=r"pg_wal leads to .* which belongs to") as caught:
        site.restore(delta=True)
    assert str(caught.value.remedy) == f"Remove the link: rm {copy}/pg_wal"
    (copy / "pg_wal").unlink()
    with pytest.raises(RestoreError, match=r"pg_tblspc/.* leads to .* which belongs to"):
        site.restore(delta=True)
    (link,) = (copy / "pg_tblspc").iterdir()
    link.unlink()
    before = cluster_digest(server)
    site.restore(delta=True, target=target.immediate())
    server.psql("CREATE TABLE more AS SELECT 1; DROP TABLE more; CHECKPOINT")
    server.restart("immediate")
    assert_same_digest(cluster_digest(server), before)


def test_an_original_that_is_not_ours_to_look_into_is_no_hindrance(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0)
    look = (
        "import sys; from pathlib import Path\n"
        "from pgkeep.restore.live import refuse_shared_places\n"
        "refuse_shared_places(Path('/'), [], {'data_directory': sys.argv[1]})"
    )
    command = [sys.executable, "-c", look, str(hidden / "main")]
    done = run_as_server_user(command, check=False)
    hidden.chmod(0o700)
    assert done.returncode == 0, done.stderr
