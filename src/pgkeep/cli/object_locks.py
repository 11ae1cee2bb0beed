"""From settings to a bucket's locks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.cli.session import open_host_state
from pgkeep.cli.store_settings import store_options
from pgkeep.config import Settings
from pgkeep.errors import ConfigError
from pgkeep.storage.object_url import parse_object_url

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.cli.each_repository import One
    from pgkeep.storage.object_lock import ObjectLock


def lock_of(settings: Settings) -> ObjectLock:
    """The locks of the bucket that these settings name. Raises ``ConfigError``."""
    from pgkeep.storage.object_lock import ObjectLock

    options, url = store_options(settings), settings.repo or ""
    if options is None or not url.lower().startswith("s3:"):
        raise ConfigError(
            f"{url} has no Object Lock, and object_lock_days asks for it.",
            why="Only buckets at s3:// have it.",
            remedy="Leave object_lock_days out for this repository.",
        )
    return ObjectLock(parse_object_url(url), options)


def memory_of(context: Context, one: One) -> Path:
    """The file in which this host remembers what is locked in a repository."""
    host = open_host_state(context.settings, context.owner_uid)
    identity = one.repository.keyring.repository_id.hex()
    return host.folder("locks", identity, context.settings.cluster) / f"{one.name}.json"


def check_locks(settings: Settings) -> None:
    """Raise ``ConfigError`` for a repository that shall be locked and has no locks."""
    for one in (settings, *settings.mirrors.values()):
        if one.object_lock_days is not None:
            lock = lock_of(one)
            lock.check()
            lock.close()
