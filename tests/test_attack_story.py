"""The story of an attack: somebody deletes and overwrites all that there is, and the cluster comes
back all the same, from the versions that the bucket keeps.

The owner's keys make the repository. From then on the database host has the writer's, and whoever
restores has the restorer's.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgkeep.seal import age
from pgkeep.storage.object_url import parse_object_url
from pgkeep.storage.options import StoreOptions
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.load import Load, prepare_pgbench
from tests.object_stores import Service, object_service
from tests.server_user import server_user
from tests.servers import new_directory
from tests.storage.aws import client, keys_in, role_options, store_time, versioned_place
from tests.test_story import Site


def variables_of(options: StoreOptions) -> dict[str, str]:
    """What a host's environment says of the store."""
    return {f"PGKEEP_{name.upper()}": value for name, value in options._asdict().items() if value}


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Service:
    return object_service(request, "minio")


@pytest.fixture
def site(service: Service, server_factory: ServerFactory, pgkeep_program: Path) -> Iterator[Site]:
    server = server_factory()
    folder = new_directory("s")
    secret, public = age.generate_identity()
    identity = folder / "identity.txt"
    identity.write_text(secret + "\n")
    identity.chmod(0o600)
    server_user().own(identity)
    place = versioned_place(service)
    environment = {
        **server.env,
        **service.environ,
        "PGKEEP_REPO": place.url,
        "PGKEEP_STATE": str(folder / "state"),
        "PGKEEP_IDENTITY": str(identity),
    }
    site = Site(server, pgkeep_program, folder, environment)
    site.pgkeep("init", "--recipient", public)
    environment.update(variables_of(role_options(service, "writer", place)))
    site.pgkeep("setup", "--apply")
    server.restart()
    yield site
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.end_to_end
@pytest.mark.parametrize("wal", ["fetch", "copied"])
def test_a_cluster_comes_back_from_before_the_attack(
    site: Site, service: Service, wal: str
) -> None:
    prepare_pgbench(site.server, scale=1)
    site.pgkeep("backup")
    with Load(site.server) as load:
        load.wait_transactions(100)
    site.pgkeep("backup")
    last = site.mark("last")
    site.server.wait_archived()
    bucket = site.environment["PGKEEP_REPO"].split("/")[2]
    with_all_keys = client(service)
    time.sleep(1.1)
    before = store_time(with_all_keys, bucket).isoformat()
    place = parse_object_url(site.environment["PGKEEP_REPO"])
    site.environment.update(variables_of(role_options(service, "restorer", place)))
    done = json.loads(site.pgkeep("restore", "--into", new_directory("r") / "data", "--json"))
    assert any("without a pin" in warning for warning in done["progress_warnings"])
    time.sleep(1.1)
    site.server.stop()
    for number, key in enumerate(keys_in(with_all_keys, bucket)):
        if number % 3 == 0:
            with_all_keys.put_object(Bucket=bucket, Key=key, Body=b"send money")
        else:
            with_all_keys.delete_object(Bucket=bucket, Key=key)
    with_all_keys.close()

    seen = json.loads(site.pgkeep("list", "--as-of", before, "--json"))
    assert [backup["good"] for backup in seen["backups"]] == [True, True]
    back = site.restored("--latest", "--as-of", before, "--wal", wal)
    with back:
        back.wait_recovery_end()
        assert_same_digest(cluster_digest(back), last.digest)
