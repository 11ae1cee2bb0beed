"""One read of the server, and every repository has it; each of them is enough."""

from __future__ import annotations

import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.backup.test_damage import flip
from tests.digest import assert_same_digest, cluster_digest
from tests.factory import ServerFactory
from tests.mirror.site import Site
from tests.object_stores import object_service


@pytest.fixture
def site(server_factory: ServerFactory, pgkeep_program: Path) -> Iterator[Site]:
    made = Site(server_factory, pgkeep_program)
    yield made
    made.close()


def wal_of(files: dict[str, int]) -> set[str]:
    return {key for key in files if "/wal/" in key}


@pytest.mark.end_to_end
def test_three_repositories_have_it_and_the_last_one_alone_brings_it_back(
    server_factory: ServerFactory, pgkeep_program: Path, request: pytest.FixtureRequest
) -> None:
    site = Site(server_factory, pgkeep_program, service=object_service(request, "moto"))
    site.fill(50_000)
    made = site.json("backup")
    assert sorted(made["repositories"]) == ["cloud", "main", "second"]
    site.fill(1000)
    digest = cluster_digest(site.server)
    site.switch()
    site.server.wait_archived()
    assert site.files(site.main) == site.files(site.second)
    assert site.json("copy", "--dry-run")["targets"][0]["objects"] == 0

    site.take_away(site.main)
    site.take_away(site.second)
    assert "left aside" in site.pgkeep("list")
    into = site.folder / "back"
    site.pgkeep("restore", "--into", into, "--wal", "fetch")
    config = tomllib.loads((into / "pgkeep.restore.toml").read_text())
    assert config["repo"].startswith("s3://")
    assert "mirrors" not in config
    back = site.factory.adopt(into).start()
    back.wait_recovery_end()
    assert_same_digest(cluster_digest(back), digest)
    site.close()


@pytest.mark.end_to_end
def test_a_mirror_that_was_away_is_caught_up(site: Site) -> None:
    site.fill(20_000)
    site.pgkeep("backup")
    site.take_away(site.second)
    site.environ["PGKEEP_COPIES"] = "1"
    site.pgkeep("setup", "--apply")
    site.server.psql("SELECT pg_reload_conf()")
    for _ in range(3):
        site.fill(2000)
        site.switch()
        site.server.wait_archived()
    site.pgkeep("backup", PGKEEP_COPIES="1")
    site.fill(500)
    site.switch()
    site.server.wait_archived()
    refused = site.json("backup", code=66, PGKEEP_COPIES="all")
    assert refused["error"] == "TooFewCopies"
    assert "main" in refused["facts"]["have"]

    site.bring_back(site.second)
    before = site.files(site.main)
    assert before.keys() > site.files(site.second).keys()
    site.pgkeep("copy")
    assert site.files(site.main) == site.files(site.second)
    assert site.pgkeep("copy", "--compare").count("lacked nothing") == 2
    back = site.restored(**site.only(site.second))
    assert back.psql("SELECT count(*) FROM t") == site.server.psql("SELECT count(*) FROM t")


@pytest.mark.end_to_end
def test_the_next_backup_catches_a_mirror_up_and_a_mirror_can_lead(site: Site) -> None:
    site.environ["PGKEEP_COPIES"] = "1"
    site.pgkeep("setup", "--apply")
    site.fill(5000)
    site.pgkeep("backup")
    site.take_away(site.main)
    site.fill(500)
    assert site.json("backup")["repositories"] == ["second"]
    site.bring_back(site.main)
    time.sleep(1.1)  # backups are named by the second, and main does not know the one before
    assert site.json("backup")["repositories"] == ["main", "second"]
    assert site.files(site.main) == site.files(site.second)
    assert len(site.json("list", **site.only(site.main))["backups"]) == 3


@pytest.mark.majors(18)
def test_a_mirror_that_is_away_hides_no_damage(site: Site) -> None:
    site.fill(5000)
    path = site.server.psql("SELECT pg_relation_filepath('t')")
    site.server.psql("CHECKPOINT")
    flip(site.server.pgdata / path, block=3)
    site.environ["PGKEEP_COPIES"] = "1"
    site.pgkeep("setup", "--apply")
    site.take_away(site.second)
    said = site.json("backup", code=66, PGKEEP_COPIES="all")
    assert said["facts"]["damaged_pages"] == "1"
    assert f"{path} page 3" in said["why"]
    assert "failed their checksum" in said["what"]
    site.bring_back(site.second)


@pytest.mark.majors(18)
def test_two_backups_of_one_name_are_told_apart(site: Site) -> None:
    """Each repository led a backup in the same second, while the other was away."""
    site.environ["PGKEEP_COPIES"] = "1"
    site.pgkeep("setup", "--apply")
    site.fill(5000)
    site.take_away(site.second)
    name = site.json("backup")["backup"]
    site.bring_back(site.second)
    site.take_away(site.main)
    site.fill(500)
    other = site.json("backup")["backup"]
    site.bring_back(site.main)
    for path in [*site.second.rglob(other)]:
        path.rename(path.with_name(name))
    before = {place: manifests_of(place, name) for place in (site.main, site.second)}
    assert len(before[site.main]) == len(before[site.second]) == 2

    said = site.json("copy", code=67)
    problems = [one["what"] for target in said["targets"] for one in target["problems"]]
    assert problems == [f"backup {name}", f"backup {name}"]
    assert {place: manifests_of(place, name) for place in before} == before
    # Also where one has but one copy of its manifest, which another one's must not join.
    min(site.second.rglob(name)).unlink()
    site.pgkeep("copy", code=67)
    assert len(manifests_of(site.second, name)) == 1
    assert manifests_of(site.main, name) == before[site.main]


def manifests_of(repository: Path, name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted(repository.rglob(name))]


@pytest.mark.end_to_end
def test_half_of_the_packs_in_each_is_enough(site: Site) -> None:
    site.fill(400_000)
    site.pgkeep("backup", "--jobs", "2")
    site.fill(1000)
    site.pgkeep("backup")
    digest = cluster_digest(site.server)
    site.switch()
    site.server.wait_archived()
    keys = sorted(key for key in site.files(site.main) if "/packs/" in key or "/wal/" in key)
    assert sum("/packs/" in key for key in keys) >= 4
    for number, key in enumerate(keys):
        ((site.main if number % 2 else site.second) / key).unlink()
    back = site.restored()
    assert_same_digest(cluster_digest(back), digest)
    site.pgkeep("copy")
    # What is missing of WAL comes back; packs of backups that both sides list do not yet.


@pytest.mark.end_to_end
def test_damaged_packs_are_read_from_the_mirror_and_said(site: Site) -> None:
    site.fill(100_000)
    site.pgkeep("backup")
    digest = cluster_digest(site.server)
    site.switch()
    site.server.wait_archived()
    for key in site.files(site.main):
        path = site.main / key
        data = bytearray(path.read_bytes())
        for at in range(len(data) // 3, len(data), 50_000):
            data[at] ^= 0x40
        path.chmod(0o600)
        path.write_bytes(data)
    into = site.folder / "back"
    said = site.pgkeep("restore", "--into", into, "--wal", "copied")
    assert "is sound, and was used instead" in said
    back = site.factory.adopt(into).start()
    back.wait_recovery_end()
    assert_same_digest(cluster_digest(back), digest)
    assert "damaged in main" in site.pgkeep("copy", "--compare", code=67)


@pytest.mark.end_to_end
def test_a_copy_that_is_killed_goes_on_and_never_lists_what_is_not_there(site: Site) -> None:
    site.fill(300_000)
    site.pgkeep("backup")
    site.fill(3000)
    site.pgkeep("backup")
    new = site.folder / "new"
    random = Random(7)
    kills, whole = 0, site.files(site.main)
    for _ in range(14):
        process = site.start("copy", "--to", new.as_uri())
        # It takes a fifth of a second: by then, so many files are there.
        enough = random.randrange(len(whole))
        while process.poll() is None and sum(1 for _ in new.rglob("*")) < enough:
            time.sleep(0.001)
        if process.poll() is None:
            kills += 1
            process.kill()
        else:
            shutil.rmtree(new, ignore_errors=True)
        process.communicate()
        there = site.files(new) if new.exists() else {}
        assert all(whole[key] == size for key, size in there.items())
        if any("/manifests" in key for key in there) and (new / "pgkeep/repository").exists():
            for backup in site.json("list", **site.only(new))["backups"]:
                named = site.json("show", backup["backup"], **site.only(new))
                assert named["manifest_copies"] >= 1
                assert len([key for key in there if "/packs/" in key]) >= named["packs"]
    assert kills > 2
    site.pgkeep("copy", "--to", new.as_uri())
    assert site.files(new) == site.files(site.main)
    back = site.restored(**site.only(new))
    assert_same_digest(cluster_digest(back), cluster_digest(site.server))


def test_two_servers_under_one_name_are_told_by_any_repository(site: Site) -> None:
    site.switch()
    site.server.wait_archived()
    name = sorted(key.rpartition("/")[2] for key in wal_of(site.files(site.second)))[0]
    key = next(key for key in site.files(site.main) if key.endswith(name))
    (site.main / key).unlink()
    waiting = site.server.pgdata / "pg_wal" / name
    content = waiting.read_bytes() if waiting.exists() else None
    if content is None:
        pytest.skip("the server has recycled the segment")
    stored = (site.second / key).read_bytes()
    changed = bytearray(content)
    changed[-1] ^= 1
    waiting.write_bytes(changed)
    try:
        done = site.pgkeep("wal-push", waiting, code=31)
        assert "other content" in done
    finally:
        waiting.write_bytes(content)
    assert (site.second / key).read_bytes() == stored


def test_another_repository_is_refused_by_name(site: Site) -> None:
    other = site.folder / "other"
    variables = {**site.only(other), "PGKEEP_STATE": str(site.folder / "state2")}
    site.pgkeep("init", "--recipient", site.public, **variables)
    said = site.pgkeep("backup", code=60, PGKEEP_MIRROR_OTHER_REPO=other.as_uri())
    assert "is not a mirror of" in said
    assert "other" in said
    said = site.pgkeep("copy", "--to", other.as_uri(), code=60)
    assert "is not a mirror of" in said


def test_too_many_copies_and_misspelt_settings_are_refused(site: Site) -> None:
    assert "there are 2 repositories" in site.pgkeep("config", code=3, PGKEEP_COPIES="3")
    said = site.pgkeep("config", code=3, PGKEEP_MIRROR_SECOND_REGOIN="x")
    assert "region" in said
    shown = site.json("config", PGKEEP_MIRROR_SECOND_SECRET_ACCESS_KEY="s3cr3t")
    assert shown["mirrors"]["second"]["repo"]["value"] == site.second.as_uri()
    assert "s3cr3t" not in str(shown)
