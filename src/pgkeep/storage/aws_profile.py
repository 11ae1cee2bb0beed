"""Credentials of a profile in AWS's own files: static, by a process, by SSO, by an assumed role.

The rules of these files are many and change, so botocore reads them, the library that AWS itself
maintains. It is an extra (``pgkeep[aws]``), since it weighs as much as all the rest and most
servers have keys or a role; it is imported only where a profile is used.
"""

from __future__ import annotations

import os.path
from typing import TYPE_CHECKING, Any

from pgkeep.errors import ConfigError, StoreDenied
from pgkeep.storage.options import StoreOptions

if TYPE_CHECKING:
    from obstore.store import S3Credential

CREDENTIALS_FILE = "~/.aws/credentials"
CONFIG_FILE = "~/.aws/config"
# Asked again after so long; botocore knows by itself when it has to renew what it has.
_ASK_AGAIN_MINUTES = 5


class Profile:
    """Yields a profile's credentials whenever the store needs them. ``region`` is the profile's."""

    def __init__(self, options: StoreOptions) -> None:
        import botocore.session

        session = botocore.session.Session(profile=options.profile)
        if options.aws_credentials_file:
            session.set_config_variable("credentials_file", options.aws_credentials_file)
        if options.aws_config_file:
            session.set_config_variable("config_file", options.aws_config_file)
        self.name = options.profile or "default"
        self._credentials: Any = _looking(self.name, session.get_credentials)
        self.region: str | None = _looking(self.name, lambda: session.get_config_variable("region"))
        if self._credentials is None:
            raise StoreDenied(
                f"The profile {self.name!r} yields no credentials.",
                why="Neither it nor the environment, a container or an instance has any.",
                remedy="Complete the profile, or set PGKEEP_ACCESS_KEY_ID and "
                "PGKEEP_SECRET_ACCESS_KEY.",
            )

    def __call__(self) -> S3Credential:
        from datetime import UTC, datetime, timedelta

        found = _looking(self.name, self._credentials.get_frozen_credentials)
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=_ASK_AGAIN_MINUTES),
        }


def find_profile(options: StoreOptions) -> Profile | None:
    """The profile that is named, else what AWS's own tools would find in their default files.

    None where there is neither; then the library asks containers and instances. Raises
    ``ConfigError`` when a profile is named and botocore is not installed.
    """
    if options.profile is None and not any(map(os.path.isfile, profile_files(options))):
        return None
    try:
        import botocore  # noqa: F401
    except ImportError:
        if options.profile is None:
            return None
        raise ConfigError(
            f"The profile {options.profile!r} cannot be read: botocore is not installed.",
            remedy="Install pgkeep[aws], or set PGKEEP_ACCESS_KEY_ID and "
            "PGKEEP_SECRET_ACCESS_KEY instead of a profile.",
        ) from None
    return Profile(options)


def profile_files(options: StoreOptions) -> tuple[str, str]:
    """Where AWS's files lie, by absolute path: the credentials, the configuration."""
    return (
        options.aws_credentials_file or os.path.expanduser(CREDENTIALS_FILE),  # noqa: PTH111
        options.aws_config_file or os.path.expanduser(CONFIG_FILE),  # noqa: PTH111
    )


def existing_profile_files(options: StoreOptions) -> dict[str, str]:
    """Of these files those that are there, by the names of their settings."""
    names = ("aws_credentials_file", "aws_config_file")
    found = zip(names, profile_files(options), strict=True)
    return {name: path for name, path in found if os.path.isfile(path)}  # noqa: PTH113


def _looking(name: str, ask: Any) -> Any:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return ask()
    except (BotoCoreError, ClientError) as error:
        raise StoreDenied(
            f"The profile {name!r} yields no credentials.",
            why=f"botocore says: {error}"[:300].rstrip(".") + ".",
            remedy="Log in again, or correct the profile; aws sts get-caller-identity --profile "
            f"{name} tells whether it works.",
        ) from error
