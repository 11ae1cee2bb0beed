"""A bucket with Object Lock: what the newest backup needs cannot be deleted by anybody's keys."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from pgkeep.keep.locking import lock_backup
from pgkeep.storage.object_url import ObjectPlace, parse_object_url
from tests.cli.kit import Pgkeep
from tests.factory import ServerFactory
from tests.object_stores import Service, object_service
from tests.program import pgkeep_program
from tests.repository.kit import LAYOUT, head, make_repository, put_backup
from tests.servers import PgServer
from tests.storage.aws import client, store_time

DAYS = 2


def locked_place(service: Service, name: str) -> ObjectPlace:
    """A prefix in a new bucket with Object Lock and no default."""
    s3 = client(service)
    s3.create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    s3.close()
    return ObjectPlace("s3", name, "team/pg")


def versions(s3: Any, bucket: str) -> list[tuple[str, str]]:
    pages = s3.get_paginator("list_object_versions").paginate(Bucket=bucket)
    return [(one["Key"], one["VersionId"]) for page in pages for one in page.get("Versions", ())]


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_what_a_backup_needs_outlives_whoever_has_all_keys(
    request: pytest.FixtureRequest, server_factory: ServerFactory
) -> None:
    service, server = object_service(request, "minio"), server_factory()
    place = locked_place(service, f"pgkeep-lock-{uuid4().hex[:12]}")
    kept = Pgkeep(environ={**service.environ, "PGKEEP_OBJECT_LOCK_DAYS": str(DAYS)}).of(server)
    kept.environ["PGKEEP_REPO"] = place.url
    kept("init", "--recipient", kept.public)
    kept("setup", "--apply", "--program", str(pgkeep_program()))
    server.restart()
    server.psql("CREATE TABLE t AS SELECT generate_series(1, 50000) i")
    kept("backup")
    server.psql("DELETE FROM t WHERE i = 7")
    kept("backup")  # an increment: most of what it needs was stored by the first
    listed = kept.json("list")
    last = listed["backups"][-1]["backup"]

    s3 = client(service)
    time.sleep(1.1)
    before = store_time(s3, place.bucket)
    server.stop()
    refused = 0
    for key, version in versions(s3, place.bucket):
        try:
            s3.delete_object(Bucket=place.bucket, Key=key, VersionId=version)
        except ClientError:
            refused += 1
            s3.put_object(Bucket=place.bucket, Key=key, Body=b"send money")
    assert refused > 8
    key = f"{place.prefix}/main/{listed['system_identifier']}/manifests/{last}"
    found = s3.head_object(Bucket=place.bucket, Key=key, VersionId=_oldest(s3, place, key))
    assert found["ObjectLockRetainUntilDate"] >= before + timedelta(days=DAYS, minutes=-5)
    s3.close()

    into = kept.root / "back"
    options = ("--into", into, "--backup", last, "--immediate", "--as-of", before.isoformat())
    kept("restore", *options, "--wal", "copied", PGKEEP_IDENTITY=kept.secret)
    with PgServer.adopt(server.installation, into) as back:
        back.wait_recovery_end()
        assert back.psql("SELECT count(*) FROM t") == "49999"


def _oldest(s3: Any, place: ObjectPlace, key: str) -> str:
    pages = s3.list_object_versions(Bucket=place.bucket, Prefix=key)
    found: str = pages["Versions"][-1]["VersionId"]
    return found


@pytest.mark.majors(18)
def test_a_bucket_without_object_lock_is_refused(
    request: pytest.FixtureRequest, server_factory: ServerFactory
) -> None:
    service, server = object_service(request, "minio"), server_factory()
    place = service.new_place()
    kept = Pgkeep(environ={**service.environ, "PGKEEP_OBJECT_LOCK_DAYS": "5"}).of(server)
    kept.environ["PGKEEP_REPO"] = place.url
    assert "no Object Lock" in kept("init", "--recipient", kept.public, code=3).stderr
    kept.environ["PGKEEP_REPO"] = (kept.root / "repository").as_uri()
    assert "no Object Lock" in kept("init", "--recipient", kept.public, code=3).stderr
    assert parse_object_url(place.url) == place


class Asked:
    """Takes the place of a bucket's locks, and notes what is asked of it."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.bounds: set[tuple[datetime, datetime]] = set()

    def extend(self, prefix: str, keys: set[str], *, least: datetime, to: datetime) -> int:
        assert all(key.startswith(prefix) for key in keys)
        self.keys += sorted(keys)
        self.bounds.add((least, to))
        return len(keys)


def test_packs_that_are_locked_for_long_enough_are_not_asked_for(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path)
    old, new = "0a" * 16, "0b" * 16
    put_backup(
        repository,
        head("20261120T120000Z", "0/300028", "0/300100"),
        packs={(old, 1): 200, (old, 2): 200},
    )
    put_backup(
        repository,
        head("20261121T120000Z", "0/300028", "0/300100"),
        packs={(old, 1): 200, (new, 1): 200},
    )
    memory = tmp_path / "locks.json"

    def lock(backup: str, days: int = 30) -> Asked:
        asked = Asked()
        lock_backup(repository, LAYOUT, backup, asked, days=days, memory=memory)  # type: ignore[arg-type]
        return asked

    first = lock("20261120T120000Z")
    assert {LAYOUT.pack(old, 1), LAYOUT.pack(old, 2), "pgkeep/repository"} <= set(first.keys)
    ((least, to),) = first.bounds
    assert to - least == timedelta(days=15)
    second = lock("20261121T120000Z", days=29)
    assert LAYOUT.pack(new, 1) in second.keys
    assert LAYOUT.pack(old, 1) not in second.keys
    # Longer than they are locked, or forgotten: asked for again.
    assert LAYOUT.pack(old, 1) in lock("20261121T120000Z", days=60).keys
    memory.write_text("rubbish")
    assert LAYOUT.pack(old, 1) in lock("20261121T120000Z", days=60).keys
