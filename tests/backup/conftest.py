"""Fixtures of the backup's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pgkeep.backup import skipping
from tests.backup.lineage import Lineage
from tests.backup.site import Site
from tests.factory import ServerFactory

MakeLineage = Callable[..., Lineage]


@pytest.fixture
def make_site(server_factory: ServerFactory) -> Callable[..., Site]:
    """Makes servers with repositories; see ``Site``."""

    def make(**options: object) -> Site:
        return Site(server_factory, **options)  # type: ignore[arg-type]

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A running server that archives into a sealed repository."""
    return make_site()


@pytest.fixture
def make_lineage(make_site: Callable[..., Site], server_factory: ServerFactory) -> MakeLineage:
    """Makes servers of which a test makes several backups; takes the options of ``Site``."""

    def make(**options: object) -> Lineage:
        return Lineage(make_site(**options), server_factory)

    return make


@pytest.fixture
def lineage(make_lineage: MakeLineage) -> Lineage:
    """A running server that archives into a sealed repository, and has no backup yet."""
    return make_lineage()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of a second after it was written to, a file may be skipped if it did not change."""
    monkeypatch.setattr(skipping, "_SETTLED_US", 100_000)
