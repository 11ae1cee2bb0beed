"""The story on object stores that others wrote: set up, archive, back up twice, and come back.

What the server calls (``archive_command``, ``restore_command``) has nothing of our environment, so
that all it knows of the store must be in the files that pgkeep wrote for it.
"""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.seal import age
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.load import Load, prepare_pgbench
from tests.object_stores import SECRET, Service, object_service
from tests.server_user import server_user
from tests.servers import new_directory
from tests.test_story import Site, judge_by_postgresql


@pytest.fixture(params=["versitygw", "minio"])
def service(request: pytest.FixtureRequest) -> Service:
    return object_service(request, request.param)


@pytest.fixture
def site(service: Service, server_factory: ServerFactory, pgkeep_program: Path) -> Iterator[Site]:
    server = server_factory()
    folder = new_directory("s")
    secret, public = age.generate_identity()
    identity = folder / "identity.txt"
    identity.write_text(secret + "\n")
    identity.chmod(0o600)
    server_user().own(identity)
    bucket = service.new_place().bucket + "-made-by-init"
    environment = {
        **server.env,
        **service.environ,
        "PGKEEP_REPO": f"s3://{bucket}/team",
        "PGKEEP_STATE": str(folder / "state"),
        "PGKEEP_IDENTITY": str(identity),
    }
    site = Site(server, pgkeep_program, folder, environment)
    site.pgkeep("init", "--create-bucket", "--recipient", public)
    site.pgkeep("setup", "--apply")
    server.restart()
    yield site
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.end_to_end
def test_a_cluster_comes_back_from_an_object_store(site: Site) -> None:
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
        assert SECRET in config.read_text()
        with back:
            back.wait_recovery_end()
            assert_same_digest(cluster_digest(back), moment.digest)
            assert SECRET not in back.log_text() + site.server.log_text()
    judge_by_postgresql(site)
