"""Where a host keeps its keys and what it remembers, for one owner of data directories."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pgkeep.config.settings import Settings
from pgkeep.config.table import DEFAULT_STATE
from pgkeep.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


def state_directory(settings: Settings, owner_uid: int) -> Path:
    """Where this host's keys lie, for the owner of the data directory. May not exist yet.

    The answer depends on nothing but the settings and the uid, above all not on HOME, so that
    root's ``init`` and the server's archive_command find the same keys.
    Raises ``ConfigError`` when the place of last resort belongs to somebody else.
    """
    from pathlib import Path

    if settings.state is not None:
        return Path(settings.state)
    if os.path.isdir(DEFAULT_STATE):  # noqa: PTH112 - pathlib would say nothing more
        return Path(DEFAULT_STATE)
    home = _home_of(owner_uid)
    if home is not None:
        return Path(home, ".local/state/pgkeep")
    return _last_resort(Path(f"/var/tmp/pgkeep-{owner_uid}"), owner_uid)


def _home_of(uid: int) -> str | None:
    """The home directory of a user, if it exists and is really his."""
    import pwd

    try:
        home = pwd.getpwuid(uid).pw_dir
        return home if os.stat(home).st_uid == uid else None  # noqa: PTH116
    except (KeyError, OSError):
        return None


def _last_resort(path: Path, owner_uid: int) -> Path:
    """Anybody may make names under /var/tmp: what lies there already must be the owner's."""
    if os.geteuid() == owner_uid:
        try:
            path.mkdir(0o700)
        except FileExistsError:
            pass
        except OSError as error:
            raise ConfigError(
                f"The state directory {path} cannot be made.",
                why=f"{error.strerror}.",
                remedy="Set PGKEEP_STATE to a directory of this user.",
            ) from error
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return path
    if status.st_mode & 0o170000 != 0o040000 or status.st_uid != owner_uid or status.st_mode & 0o22:
        raise ConfigError(
            f"The state directory {path} is refused.",
            why=f"It is not a directory that user {owner_uid} alone may write to.",
            remedy="Set PGKEEP_STATE to a directory of that user.",
        )
    return path
