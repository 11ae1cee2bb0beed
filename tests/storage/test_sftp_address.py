"""What a URL of an SFTP repository may say, and what is said of one that may not."""

from __future__ import annotations

import pytest

from pgkeep.errors import ConfigError
from pgkeep.storage._sftp_address import Address, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("sftp://me@host/srv/x", Address("me", "host", 22, b"/srv/x")),
        ("SFTP://me@Host.Example:2222/srv//x/./", Address("me", "host.example", 2222, b"/srv/x")),
        ("sftp://me@[::1]:23/a", Address("me", "::1", 23, b"/a")),
        ("sftp://a%40b@host/a%20b%3Fc", Address("a@b", "host", 22, b"/a b?c")),
        ("sftp://me@host/%E4%20", Address("me", "host", 22, b"/\xe4 ")),
    ],
)
def test_a_url_names_a_user_a_server_and_a_path(url: str, address: Address) -> None:
    assert parse_address(url) == address
    assert parse_address(address.url) == address


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sftp://host/srv", "no user"),
        ("sftp:///srv", "no server"),
        ("sftp:me@host/srv", "no server"),
        ("sftp://me@host", "no directory"),
        ("sftp://me@host/", "no directory"),
        ("sftp://me@host/./", "no directory"),
        ("sftp://me@host/~/backups", "home directory"),
        ("sftp://me@host/a/../b", "no '..'"),
        ("sftp://me@host/a%00b", "NUL"),
        ("sftp://me@host:0/a", "port"),
        ("sftp://me@host:ssh/a", "port"),
        ("sftp://me@host:70000/a", "port"),
        ("sftp://me@host/a?b", "%3F"),
        ("sftp://me@host/a#b", "%23"),
        ("sftp://me@[::1/a", "cannot be read"),
    ],
)
def test_what_is_wrong_with_a_url_is_said(url: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address(url)
    assert why in str(caught.value)
    assert "sftp://pgkeep@" in str(caught.value)


def test_a_password_in_a_url_is_refused_and_not_shown() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_address("sftp://me:hunter2@host/srv")
    assert "password" in str(caught.value)
    assert "hunter2" not in str(caught.value.as_dict())
