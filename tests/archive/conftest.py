"""Fixtures of the archive's tests."""

from __future__ import annotations

import pytest

from tests.archive.kit import DataDirectory, Host
from tests.servers import new_directory


@pytest.fixture(params=["sealed", "plain"])
def any_host(request: pytest.FixtureRequest) -> Host:
    """A host with a repository, once sealed and once not."""
    return Host(new_directory(), sealed=request.param == "sealed")


@pytest.fixture
def host() -> Host:
    """A host with a sealed repository."""
    return Host(new_directory())


@pytest.fixture
def data(host: Host) -> DataDirectory:
    """A data directory (no server) that the repository of ``host`` knows."""
    data = DataDirectory.make()
    host.register(data.path)
    return data
