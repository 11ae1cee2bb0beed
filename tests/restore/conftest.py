"""Sites and stories: what most tests here restore from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.factory import ServerFactory
from tests.installations import Installation
from tests.restore.site import Site
from tests.restore.story import Story


@pytest.fixture
def make_site(server_factory: ServerFactory) -> Iterator[Callable[..., Site]]:
    """Makes sites of the installation under test, with the options of ``Site``."""
    sites: list[Site] = []

    def make(**options: Any) -> Site:
        sites.append(Site(server_factory, **options))
        return sites[-1]

    yield make
    server_factory.close()
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    """A running server that archives into a sealed repository."""
    return make_site()


@pytest.fixture(scope="session")
def stories() -> Iterator[Callable[[Installation], Story]]:
    """One story for each installation, told once."""
    told: dict[int, tuple[ServerFactory, Story]] = {}

    def story_of(installation: Installation) -> Story:
        if installation.major not in told:
            factory = ServerFactory(installation)
            told[installation.major] = (factory, Story(Site(factory)))
        return told[installation.major][1]

    yield story_of
    for factory, story in told.values():
        factory.close()
        story.site.close()


@pytest.fixture
def story(
    stories: Callable[[Installation], Story], pg_installation: Installation
) -> Iterator[Story]:
    """A finished history with known states; restored servers are ended after the test."""
    told = stories(pg_installation)
    yield told
    told.forget_restored()
