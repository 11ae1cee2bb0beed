"""The story on stores that others wrote: set up, archive, back up twice, and come back.

What the server calls (``archive_command``, ``restore_command``) has nothing of our environment, so
that all it knows of the store must be in the files that pgkeep wrote for it.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pgkeep.seal import age
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.load import Load, prepare_pgbench
from tests.object_stores import SECRET, object_service
from tests.server_user import server_user
from tests.servers import new_directory
from tests.sshd import Sshd, find_sshd
from tests.test_story import Site, judge_by_postgresql

Place = tuple[str, Mapping[str, str], str]


@pytest.fixture(params=["versitygw", "minio", "sftp"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """(URL, variables, a secret among these) of a repository that ``init`` has to make."""
    if request.param != "sftp":
        service = object_service(request, request.param)
        bucket = service.new_place().bucket + "-made-by-init"
        yield f"s3://{bucket}/team", service.environ, SECRET
        return
    if find_sshd() is None:
        pytest.skip("no sshd here: install openssh-server")
    sshd = Sshd()
    server_user().own(sshd.key_file)
    variables = {
        "PGKEEP_SFTP_KEY_FILE": str(sshd.key_file),
        "PGKEEP_SFTP_KNOWN_HOSTS": str(sshd.known_hosts),
    }
    yield sshd.url(sshd.new_directory()), variables, str(sshd.key_file)
    sshd.close()


@pytest.fixture
def site(place: Place, server_factory: ServerFactory, pgkeep_program: Path) -> Iterator[Site]:
    url, variables, _ = place
    server = server_factory()
    folder = new_directory("s")
    secret, public = age.generate_identity()
    identity = folder / "identity.txt"
    identity.write_text(secret + "\n")
    identity.chmod(0o600)
    server_user().own(identity)
    environment = {
        **server.env,
        **variables,
        "PGKEEP_REPO": url,
        "PGKEEP_STATE": str(folder / "state"),
        "PGKEEP_IDENTITY": str(identity),
    }
    site = Site(server, pgkeep_program, folder, environment)
    create = ["--create-bucket"] if url.startswith("s3:") else []
    site.pgkeep("init", *create, "--recipient", public)
    site.pgkeep("setup", "--apply")
    server.restart()
    yield site
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.end_to_end
def test_a_cluster_comes_back_from_another_machine(site: Site, place: Place) -> None:
    prepare_pgbench(site.server, scale=2)
    site.pgkeep("backup")
    with Load(site.server, ddl=True) as load:
        load.wait_transactions(200)
    first = site.mark("first")
    assert json.loads(site.pgkeep("backup", "--json"))["kind"] == "incremental"
    with Load(site.server) as load:
        load.wait_transactions(200)
    last = site.mark("last")
    site.server.wait_archived()

    for options, moment in ((["--time", first.time], first), (["--latest"], last)):
        back = site.restored(*options, "--wal", "fetch")
        config = back.pgdata / "pgkeep.restore.toml"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert place[2] in config.read_text()
        with back:
            back.wait_recovery_end()
            assert_same_digest(cluster_digest(back), moment.digest)
            assert SECRET not in back.log_text() + site.server.log_text()
    judge_by_postgresql(site)
