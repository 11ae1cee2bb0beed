"""With several repositories a dump is in each, and copy brings it to those that were away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dump.kit import PROGRAMS
from tests.factory import ServerFactory
from tests.mirror.site import Site


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
    # And what is deleted goes from each.
    site.pgkeep("dump", "expire", "--keep", "1 dumps")
    assert len({name.split("/")[3] for name in dumps(site.main)}) == 1
    assert dumps(site.main) == dumps(site.second)
    site.close()
