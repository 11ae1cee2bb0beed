"""Servers that stores are tested against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sshd import Sshd, find_sshd


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """An OpenSSH server that all tests share, and none disturbs."""
    server = started_sshd()
    yield server
    server.close()


@pytest.fixture
def own_sshd() -> Iterator[Sshd]:
    """One that this test may do everything to."""
    server = started_sshd()
    yield server
    server.close()


def started_sshd() -> Sshd:
    if find_sshd() is None:
        pytest.skip("no sshd here: install openssh-server")
    return Sshd()
