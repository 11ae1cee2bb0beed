"""Fixtures of the backup's tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.backup.site import Site
from tests.factory import ServerFactory


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
