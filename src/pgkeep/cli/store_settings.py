"""From settings to what a store is told; small, since ``wal-push`` comes by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgkeep.config import Settings
from pgkeep.config.store_table import STORE_SETTINGS

if TYPE_CHECKING:
    from pgkeep.storage.options import StoreOptions


def store_options(settings: Settings) -> StoreOptions | None:
    """What the repository's store has to be told; None for a directory, which needs nothing.

    Secrets that lie in files are read now, those of this store only. Raises ``ConfigError``.
    """
    names = store_names(settings)
    if not names:
        return None
    from pgkeep.storage.options import StoreOptions

    return StoreOptions(**{name: getattr(settings, name) for name in names})


def store_names(settings: Settings) -> list[str]:
    """The settings that have a meaning for the repository's store."""
    scheme = (settings.repo or "").partition(":")[0].lower()
    return [setting.name for setting in STORE_SETTINGS if scheme in setting.stores]


def left_for_server(settings: Settings) -> dict[str, str]:
    """What a restored server has to be told of the store, as settings of a file of its own.

    It has neither our environment nor our home: all that is in force is written out, and the
    default files of a profile are named.
    """
    options = store_options(settings)
    if options is None:
        return {}
    left = {name: value for name, value in options._asdict().items() if value is not None}
    if (settings.repo or "").lower().startswith("s3:") and options.access_key_id is None:
        from pgkeep.storage.aws_profile import existing_profile_files

        left.update(existing_profile_files(options))
    return left
