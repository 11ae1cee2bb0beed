"""The library's clients for one place: which endpoint, as whom, and how patient.

A client's time limit covers a whole request from its first byte sent to the answer, so one limit
cannot fit all: 30 s would end a slow put of 1 GiB, and an hour would let a dead connection pass for
a slow one. Reads are limited by silence (each piece that arrives starts the time anew); writes
are limited by size, each class of sizes with a client of its own, made when it is first used.
"""

from __future__ import annotations

import os
from _thread import allocate_lock
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from obstore.store import AzureStore, GCSStore, S3Store

from pgkeep import __version__
from pgkeep.errors import ConfigError, PgkeepError
from pgkeep.storage._object_settings import (
    check_options,
    is_virtual,
    read_certificates,
    s3_endpoint,
)
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Credential

    Client = S3Store | GCSStore | AzureStore

CONNECT_SECONDS = 5
SILENCE_SECONDS = 30
# Up to so many bytes, a put may take so many seconds; beyond, LONGEST. That is 200 KiB/s and more.
PUT_SECONDS = ((1 << 20, 30), (64 << 20, 330))
LONGEST_SECONDS = 3600
_READING = "reading"
_TOKENS = ("AWS_SESSION_TOKEN", "AWS_TOKEN")


class Clients:
    """Clients for ``place``, shared by all threads. Raises ``ConfigError`` where settings clash."""

    def __init__(self, place: ObjectPlace, options: StoreOptions) -> None:
        self._place, self._options = place, options
        self._lock = allocate_lock()
        self._made: dict[str, Client] = {}
        self._login: Callable[[], S3Credential] | None = None
        self._region = options.region
        check_options(place, options)

    def reading(self) -> Client:
        """For every request that sends next to nothing."""
        return self._client(_READING, {"timeout": "1day", "read_timeout": f"{SILENCE_SECONDS}s"})

    def writing(self, size_bytes: int) -> Client:
        """For a put of so many bytes."""
        most = next((s for limit, s in PUT_SECONDS if size_bytes <= limit), LONGEST_SECONDS)
        return self._client(str(most), {"timeout": f"{most}s"})

    @property
    def region(self) -> str | None:
        """The bucket's region, as the settings or a profile say."""
        return self._region

    def close(self) -> None:
        """Let the connections go."""
        with self._lock:
            self._made.clear()

    def _client(self, name: str, limits: ClientConfig) -> Client:
        with self._lock:
            found = self._made.get(name)
            if found is None:
                found = self._made[name] = self._make(limits)
            return found

    def _make(self, limits: ClientConfig) -> Client:
        try:
            http = {**self._http(), **limits}
            return {"s3": self._s3, "gs": self._gs, "az": self._az}[self._place.scheme](http)
        except PgkeepError:
            raise
        except Exception as error:
            raise ConfigError(
                f"The settings for {self._place.url} cannot be used.",
                why=f"The library says: {type(error).__name__}.",
                remedy="See them with pgkeep config.",
            ) from error

    def _http(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "user_agent": f"pgkeep/{__version__}",
        }
        if self._options.endpoint and self._options.endpoint.startswith("http://"):
            found["allow_http"] = True
        if self._options.ca_file:
            found["root_certificate"] = read_certificates(self._options.ca_file)
        return found

    # No retries of the library's own: there is one policy, in ``retry``.

    def _s3(self, http: Any) -> Client:
        place, options = self._place, self._options
        config: dict[str, Any] = {
            "conditional_put": "etag",
            "disable_bulk_delete": True,
            "virtual_hosted_style_request": is_virtual(place, options),
        }
        if options.endpoint:
            config["aws_endpoint_url_s3"] = s3_endpoint(place, options)
        if options.server_side_encryption:
            config["server_side_encryption"] = options.server_side_encryption
        if options.kms_key:
            config["sse_kms_key_id"] = options.kms_key
        if is_key_enough(options, os.environ):
            config["access_key_id"] = options.access_key_id
            config["secret_access_key"] = options.secret_access_key
            if options.session_token:
                config["session_token"] = options.session_token
        elif self._login is None:
            self._login, self._region = self._s3_login()
        if self._region:
            config["region"] = self._region
        return S3Store(
            place.bucket,
            prefix=place.prefix or None,
            config=config,  # type: ignore[arg-type]
            client_options=http,
            retry_config={"max_retries": 0},
            credential_provider=self._login,
        )

    def _s3_login(self) -> tuple[Callable[[], S3Credential] | None, str | None]:
        """What yields the credentials (None: the library's own ways), and the region."""
        options = self._options
        if options.access_key_id and options.secret_access_key:
            return _fixed(options), options.region
        from pgkeep.storage.aws_profile import find_profile

        profile = find_profile(options)
        if profile is None:
            return None, options.region
        return profile, options.region or profile.region

    def _gs(self, http: Any) -> Client:
        config: dict[str, Any] = {}
        if self._options.endpoint:
            config["base_url"] = self._options.endpoint
        if self._options.credentials_file:
            config["application_credentials"] = self._options.credentials_file
        return GCSStore(
            self._place.bucket,
            prefix=self._place.prefix or None,
            config=config,  # type: ignore[arg-type]
            client_options=http,
            retry_config={"max_retries": 0},
        )

    def _az(self, http: Any) -> Client:
        options = self._options
        config: dict[str, Any] = {"account_name": options.account}
        if options.endpoint:
            config["endpoint"] = options.endpoint
        # Named, since the library would otherwise prefer what the environment has.
        if options.account_key:
            config |= {"account_key": options.account_key, "credential_type": "access_key"}
        elif options.sas_token:
            config |= {"sas_key": options.sas_token, "credential_type": "sas_token"}
        return AzureStore(
            self._place.bucket,
            prefix=self._place.prefix or None,
            config=config,  # type: ignore[arg-type]
            client_options=http,
            retry_config={"max_retries": 0},
        )


def is_key_enough(options: StoreOptions, environ: Mapping[str, str]) -> bool:
    """Whether a key can be given to the library as plain configuration.

    That is faster than a function that yields it (for which the library imports ``inspect``). But
    the library adds a session token of the environment, which may belong to another key.
    """
    if not (options.access_key_id and options.secret_access_key):
        return False
    return bool(options.session_token) or not any(map(environ.get, _TOKENS))


def _fixed(options: StoreOptions) -> Callable[[], S3Credential]:
    found: S3Credential = {
        "access_key_id": options.access_key_id or "",
        "secret_access_key": options.secret_access_key or "",
        "token": options.session_token,
        "expires_at": None,
    }
    return lambda: found
