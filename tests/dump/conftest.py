"""A server with something to dump, and the program with a repository of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cli.kit import Pgkeep
from tests.dump.site import DumpSite
from tests.factory import ServerFactory


@pytest.fixture
def make_site(server_factory: ServerFactory) -> Iterator[Callable[..., DumpSite]]:
    """Makes sites of the installation under test, with the options of ``DumpSite``."""
    made: list[DumpSite] = []

    def make(**options: Any) -> DumpSite:
        made.append(DumpSite(server_factory, **options))
        return made[-1]

    yield make
    server_factory.close()
    for site in made:
        shutil.rmtree(site.pgkeep.root, ignore_errors=True)


@pytest.fixture
def site(make_site: Callable[..., DumpSite]) -> DumpSite:
    """A running server and a sealed repository."""
    return make_site()


__all__ = ["Pgkeep"]
