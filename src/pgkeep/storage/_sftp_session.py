"""One connection to the server with one SFTP channel, and how it is opened.

A server works on one channel's requests one after the other: while it syncs a file, nothing else
moves. So each thread that stores or fetches gets a session to itself (see ``_sftp_pool``).

``~/.ssh/config`` is not read: a backup shall not change with the home directory of who runs it,
and a line there can turn the check of host keys off.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from pgkeep.errors import ConfigError, StoreError
from pgkeep.storage._sftp_address import Address
from pgkeep.storage._sftp_library import asyncssh
from pgkeep.storage._sftp_problems import FAILURES, connect_problem
from pgkeep.storage._sftp_transfer import patiently
from pgkeep.storage._sftp_trust import KnownHosts, Witness, refusal

# What we are ready to receive before we say go on: enough for a fast and far server.
_WINDOW_BYTES = 8 << 20
_LOGIN_SECONDS = 30.0
_QUESTIONS = 3  # without an answer, until the other side counts as gone

# All first choices are ciphers that the processor does by itself.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"


class Login(NamedTuple):
    """How we show who we are. ``password`` is a secret: never shown, never in a message."""

    key_file: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"Login(key_file={self.key_file!r})"

    def options(self) -> dict[str, Any]:
        """For asyncssh. Raises ``ConfigError`` when the key file is of no use."""
        options: dict[str, Any] = {"password": self.password}
        if self.key_file is not None:
            # Read here, where what goes wrong can be told from what goes wrong on the network.
            # By its name then, so that a certificate that lies beside it is found.
            _read_key(self.key_file)
            options |= {"client_keys": [self.key_file], "agent_path": None}
        return options


class Session:
    """An open channel. Its methods run in the thread of the event loop."""

    def __init__(
        self, connection: asyncssh.SSHClientConnection, client: asyncssh.SFTPClient
    ) -> None:
        self.client = client
        self._connection = connection

    @property
    def is_open(self) -> bool:
        """False as soon as we know that it is not."""
        return not self._connection.is_closed()

    async def lstat(self, path: bytes) -> asyncssh.SFTPAttrs | None:
        """The facts of a file, a directory, a link; None where the server finds nothing."""
        try:
            return await patiently(self.client.lstat(path))
        except asyncssh.SFTPNoSuchFile:
            return None

    async def close(self) -> None:
        """End the connection, politely if the other side takes part."""
        self._connection.close()
        try:
            async with asyncio.timeout(1):
                await self._connection.wait_closed()
        except FAILURES:
            self.abort()

    def abort(self) -> None:
        """End the connection at once."""
        self._connection.abort()


async def open_session(
    address: Address, hosts: KnownHosts, login: Login, *, silence_seconds: float
) -> Session:
    """Connect. A server that is silent for ``silence_seconds`` counts as gone from then on.

    Raises ``StoreUnavailable``, ``StoreDenied``, ``StoreError`` and ``ConfigError``.
    """
    connection = await _connect(address, hosts, login, silence_seconds)
    try:
        async with asyncio.timeout(_LOGIN_SECONDS):
            client = await connection.start_sftp_client(path_encoding=None)
    except FAILURES as error:
        # As a refused channel it is told too when there is no connection any more.
        lost = (
            asyncssh.ConnectionLost("The connection was closed") if connection.is_closed() else None
        )
        connection.abort()
        raise connect_problem(lost or error, address) from error
    except BaseException:
        connection.abort()
        raise
    return Session(connection, client)


async def _connect(
    address: Address, hosts: KnownHosts, login: Login, silence_seconds: float
) -> asyncssh.SSHClientConnection:
    witness = Witness()
    options = login.options() | {
        "config": None,
        "username": address.user,
        "client_factory": lambda: witness,
        "known_hosts": hosts.keys,
        "x509_trusted_certs": None,
        "x509_trusted_cert_paths": [],
        "encryption_algs": _CIPHERS,
        "compression_algs": None,
        "window": _WINDOW_BYTES,
        "connect_timeout": _LOGIN_SECONDS,
        "login_timeout": _LOGIN_SECONDS,
        "keepalive_interval": silence_seconds / (_QUESTIONS + 1),
        "keepalive_count_max": _QUESTIONS,
    }
    try:
        return await _connect_to(address, options, hosts)
    except asyncssh.HostKeyNotVerifiable as error:
        raise refusal(address, hosts, witness) from error
    except FAILURES as error:
        raise connect_problem(error, address) from error
    except ValueError as error:
        raise StoreError(
            f"No connection to {address.server} can be made from here.",
            why=f"{error}.",
            remedy="See that the user that pgkeep runs as has a name on this machine.",
        ) from error


async def _connect_to(
    address: Address, options: dict[str, Any], hosts: KnownHosts
) -> asyncssh.SSHClientConnection:
    try:
        return await asyncssh.connect(address.host, address.port, **options)
    except (asyncssh.KeyExchangeFailed, asyncssh.ConnectionLost, ConnectionResetError):
        if not hosts.keys_of(address, ""):
            raise
    # Only the kinds of keys that are known were asked for, and a server that has none of these
    # hangs up. Ask for any kind: one that is not known is still not believed, but it is seen.
    options["server_host_key_algs"] = "default"
    return await asyncssh.connect(address.host, address.port, **options)


def _read_key(name: str) -> None:
    try:
        asyncssh.read_private_key(name)
    except OSError as error:
        raise ConfigError(
            f"The SSH key file {name} cannot be read.",
            why=f"The system says: {error.strerror}.",
            remedy="Name a private key that the user that pgkeep runs as can read.",
        ) from error
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise ConfigError(
            f"The SSH key file {name} cannot be used.",
            why=f"{error}.",
            remedy="Name a private key without a passphrase, or leave the setting away and let "
            "an SSH agent hold the key.",
        ) from error
