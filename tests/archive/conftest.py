"""Fixtures of the archive's tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.archive.kit import DataDirectory, Host
from tests.servers import new_directory


@pytest.fixture(params=["sealed", "plain"])
def any_host(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A host with a repository, once sealed and once not."""
    host = Host(new_directory(), sealed=request.param == "sealed")
    yield host
    shutil.rmtree(host.root, ignore_errors=True)


@pytest.fixture
def host() -> Iterator[Host]:
    """A host with a sealed repository."""
    host = Host(new_directory())
    yield host
    shutil.rmtree(host.root, ignore_errors=True)


@pytest.fixture
def data(host: Host) -> Iterator[DataDirectory]:
    """A data directory (no server) that the repository of ``host`` knows."""
    data = DataDirectory.make()
    host.register(data.path)
    yield data
    shutil.rmtree(data.path.parent, ignore_errors=True)
