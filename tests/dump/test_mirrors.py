"""With several repositories a dump is in each, and copy brings it to those that were away."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from botocore.exceptions import ClientError

from tests.dump.kit import PROGRAMS
from tests.factory import ServerFactory
from tests.mirror.site import Site
from tests.object_stores import object_service
from tests.storage.aws import client
from tests.test_lock_story import locked_place, versions


def dumps(repository: Path) -> dict[str, bytes]:
    place = next((repository / "main").glob("*/dumps"), None)
    paths = sorted(place.rglob("*")) if place else []
    return {str(one.relative_to(repository)): one.read_bytes() for one in paths if one.is_file()}


@pytest.mark.majors(18)
def test_every_repository_gets_the_dump(
    server_factory: ServerFactory, pgkeep_program: Path
) -> None:
    site = Site(server_factory, pgkeep_program, PGKEEP_PG_BIN=PROGRAMS)
    site.fill(1000)
    made = site.json("dump", "create")
    assert made["repositories"] == ["main", "second"]
    assert dumps(site.main) == dumps(site.second)
    assert len(dumps(site.main)) > 5
    # One that is away is said to lack it (exit code 67), and is brought up to date by copy.
    site.take_away(site.second)
    site.pgkeep("dump", "create", code=66)
    site.bring_back(site.second)
    assert dumps(site.main) != dumps(site.second)
    assert len(site.json("dump", "list")["dumps"]) == 2
    assert "lacks 1 dump" in site.pgkeep("copy", "--dry-run", code=0)
    site.pgkeep("copy")
    assert dumps(site.main) == dumps(site.second)
    # Moving house takes dumps along.
    site.pgkeep("copy", "--to", (site.folder / "third").as_uri())
    assert dumps(site.main) == dumps(site.folder / "third")
    # What cannot be deleted somewhere is said, and so is what may be there.
    first, last = (one["dump"] for one in site.json("dump", "list")["dumps"])
    site.pgkeep("dump", "delete", first, "--only", "main")
    site.take_away(site.second)
    said = site.pgkeep("dump", "delete", first, code=67)
    assert f"There is no dump '{first}', unless in second, which did not answer." in said
    said = site.pgkeep("dump", "delete", last, "--dry-run", code=67)
    assert f"Would delete: {last} in main." in said
    assert "It could not be done in second." in said
    assert "pgkeep copy only then" in said
    said = site.pgkeep("dump", "expire", "--keep", "1 dumps", code=67)
    assert "Expiry did not come to its end in second." in said
    site.bring_back(site.second)
    assert f"Deleted: {first} in second." in site.pgkeep("dump", "delete", first)
    assert "There is no dump" in site.pgkeep("dump", "delete", first, code=83)
    site.pgkeep("dump", "create")
    # And what is deleted goes from each.
    site.pgkeep("dump", "expire", "--keep", "1 dumps")
    assert len({name.split("/")[3] for name in dumps(site.main)}) == 1
    assert dumps(site.main) == dumps(site.second)
    site.close()


@pytest.mark.majors(18)
def test_what_expired_in_one_repository_is_not_copied_back_and_is_named(
    server_factory: ServerFactory, pgkeep_program: Path
) -> None:
    site = Site(
        server_factory,
        pgkeep_program,
        PGKEEP_PG_BIN=PROGRAMS,
        PGKEEP_DUMP_KEEP="1 dumps",
        PGKEEP_EXPIRE_AFTER_DUMP="off",
    )
    old, new = (site.json("dump", "create")["dump"] for _ in range(2))
    site.pgkeep("dump", "expire", "--only", "second")
    stays = f"lacks 1 dump that dump_keep would not keep there, and that stays away: {old}."
    for options in (("--dry-run",), ()):
        assert stays in site.pgkeep("copy", *options)
    found = site.json("copy")["targets"]
    assert [(one["name"], one["dumps_left"]) for one in found] == [("main", []), ("second", [old])]
    assert {name.split("/")[3] for name in dumps(site.second)} == {new}
    # By another policy it is copied.
    site.pgkeep("copy", PGKEEP_DUMP_KEEP="30 days")
    assert dumps(site.main) == dumps(site.second)
    site.close()


@pytest.mark.majors(18)
def test_what_copy_brings_is_locked_where_it_shall_be(
    request: pytest.FixtureRequest, server_factory: ServerFactory, pgkeep_program: Path
) -> None:
    service = object_service(request, "minio")
    place = locked_place(service, f"pgkeep-lock-{uuid4().hex[:12]}")
    site = Site(server_factory, pgkeep_program, PGKEEP_PG_BIN=PROGRAMS)
    mirror = "PGKEEP_MIRROR_CLOUD_"
    site.json("dump", "create")
    for name, value in service.environ.items():
        site.environ[f"{mirror}{name.removeprefix('PGKEEP_')}"] = value
    site.environ[f"{mirror}REPO"] = place.url
    # Without locks first, as a run that was ended between the two; then what it left is locked.
    site.pgkeep("copy", "--to", "cloud")
    s3 = client(service)
    there = [one for one in versions(s3, place.bucket) if "/dumps/" in one[0]]
    assert len(there) == len(dumps(site.main)) > 5
    for days in ("2", "3"):
        site.environ[f"{mirror}OBJECT_LOCK_DAYS"] = days
        site.pgkeep("copy", "--to", "cloud")
        least = datetime.now(UTC) + timedelta(days=int(days), minutes=-5)
        for key, version in there:
            found = s3.head_object(Bucket=place.bucket, Key=key, VersionId=version)
            assert found["ObjectLockRetainUntilDate"] >= least
            with pytest.raises(ClientError):
                s3.delete_object(Bucket=place.bucket, Key=key, VersionId=version)
    s3.close()
    site.close()
