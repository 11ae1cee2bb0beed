"""From settings to what a store is told; small, since ``wal-push`` comes by."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pgkeep.config import Settings
from pgkeep.config.store_table import STORE_SETTINGS
from pgkeep.config.table import BY_NAME
from pgkeep.errors import ConfigError

if TYPE_CHECKING:
    from pgkeep.storage.options import StoreOptions

_SECRETS = {setting.name for setting in STORE_SETTINGS if setting.secret}


def store_options(settings: Settings) -> StoreOptions | None:
    """What the repository's store has to be told; None for a directory, which needs nothing.

    Secrets that lie in files are read now, those of this store only. Raises ``ConfigError``.
    """
    names = store_names(settings)
    if settings.as_of is not None and "as_of" not in names:
        raise ConfigError(
            f"{settings.repo} cannot be read as of a moment.",
            why="Only a bucket at s3:// is asked for its versions.",
            remedy="Leave --as-of (PGKEEP_AS_OF) out.",
        )
    if not names:
        return None
    from pgkeep.storage.options import StoreOptions

    return StoreOptions(**{name: getattr(settings, name) for name in names})


def store_names(settings: Settings) -> list[str]:
    """The settings that have a meaning for the repository's store."""
    scheme = (settings.repo or "").partition(":")[0].lower()
    return [setting.name for setting in STORE_SETTINGS if scheme in setting.stores]


def left_for_server(settings: Settings, *, secrets_by_file: bool = False) -> dict[str, str]:
    """What a server has to be told of the store, as settings of a file of its own.

    It has neither our environment nor our home: all that is in force is written out, and the
    default files of a profile are named. With ``secrets_by_file`` a secret that lies in a file
    stays there, and the file is named. Raises ``ConfigError``.
    """
    options = store_options(settings)
    if options is None:
        return {}
    left = {name: value for name, value in options._asdict().items() if value is not None}
    if (settings.repo or "").lower().startswith("s3:") and options.access_key_id is None:
        from pgkeep.storage.aws_profile import existing_profile_files

        left.update(existing_profile_files(options))
    if secrets_by_file:
        files = {name: settings.file_of(name) for name in left if BY_NAME[name].secret}
        left = {
            f"{name}_file" if files.get(name) else name: files.get(name) or value
            for name, value in left.items()
        }
    return left


def without_secrets(lines: Iterable[str]) -> tuple[str, ...]:
    """Lines of a settings file as anybody may see them."""
    return tuple(
        f'{name} = "(hidden)"' if (name := line.partition(" = ")[0]) in _SECRETS else line
        for line in lines
    )
