"""Mirrors: further repositories of the same cluster, each with its URL and a store of its own.

A mirror's settings are ``Settings`` again, of which only ``repo`` and the rows that belong to a
store have a meaning. So whatever opens the main repository's store opens a mirror's. They come
from a table ``[mirrors.NAME]`` in the TOML file and from ``PGKEEP_MIRROR_<NAME>_<SETTING>``, which
wins. A name is letters and digits only, since a variable's name has to tell where it ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pgkeep.config.names import unknown
from pgkeep.config.setting import PREFIX, Setting
from pgkeep.config.settings import Settings
from pgkeep.config.store_table import STORE_SETTINGS
from pgkeep.config.table import BY_NAME, KEEP_SETTINGS
from pgkeep.errors import ConfigError

MIRROR_PREFIX = f"{PREFIX}MIRROR_"
MAIN = "main"
"""How the repository of ``repo`` is named beside the mirrors."""
_NAME = re.compile(r"[a-z][a-z0-9]{0,30}")
_ROWS = {
    "repo": BY_NAME["repo"],
    **{setting.name: setting for setting in (*KEEP_SETTINGS, *STORE_SETTINGS)},
}

Found = tuple[dict[str, Any], dict[str, str]]
"""Values, and where each came from."""


def check_name(name: str, where: str) -> str:
    """The name in lower case. Raises ``ConfigError``."""
    found = name.lower()
    if not _NAME.fullmatch(found) or found in (MAIN, "all"):
        raise ConfigError(
            f"{name!r} cannot be the name of a mirror ({where}).",
            remedy=f"Use letters and digits, beginning with a letter, and not {MAIN!r}, which is "
            "the repository of PGKEEP_REPO.",
        )
    return found


def row_of(name: str, where: str) -> Setting:
    """The setting of a mirror that is called so. Raises ``ConfigError``."""
    return _ROWS.get(name) or unknown(name, f"setting of a mirror in {where}", list(_ROWS))


def tables_of(table: object, path: str) -> dict[str, dict[str, object]]:
    """The ``[mirrors.NAME]`` tables of a file, by name. Raises ``ConfigError``."""
    if not isinstance(table, dict) or not all(isinstance(one, dict) for one in table.values()):
        raise ConfigError(
            f"[mirrors] in {path} must hold a table for each mirror.",
            remedy='Write for example: [mirrors.offsite] repo = "s3://bucket/pgkeep"',
        )
    return {check_name(name, f"[mirrors.{name}] in {path}"): one for name, one in table.items()}


def split_variable(variable: str) -> tuple[str, str]:
    """The mirror's name and its setting of ``PGKEEP_MIRROR_<NAME>_<SETTING>``, in lower case."""
    name, _, rest = variable.removeprefix(MIRROR_PREFIX).partition("_")
    return check_name(name, variable), rest.lower()


def mirror_of_url(
    url: str, providers: Callable[[Mapping[str, Any]], list[tuple[str, Any, str]]]
) -> Settings:
    """A repository of which nothing is given but its URL."""
    return make_mirror("", ({"repo": url}, {"repo": "option"}), providers)


def make_mirror(
    name: str,
    found: Found,
    providers: Callable[[Mapping[str, Any]], list[tuple[str, Any, str]]],
) -> Settings:
    """Its settings. ``providers`` tells what the provider's own variables add. Raises
    ``ConfigError`` for one without a URL."""
    values, origins = dict(found[0]), dict(found[1])
    if "repo" not in values:
        raise ConfigError(
            f"The mirror {name!r} has no repository.",
            remedy=f"Set {MIRROR_PREFIX}{name.upper()}_REPO, or repo in [mirrors.{name}].",
        )
    for setting, value, variable in providers(values):
        values[setting], origins[setting] = value, f"environment {variable}"
    for setting in _ROWS:
        origins.setdefault(setting, "default")
    return Settings(values, origins)


def check_mirrors(repo: str | None, mirrors: Mapping[str, Settings], copies: int | str) -> None:
    """Raise ``ConfigError`` when two are the same place, or ``copies`` are more than there are."""
    seen: dict[str, str] = {} if repo is None else {repo.rstrip("/"): MAIN}
    for name, mirror in mirrors.items():
        url = str(mirror.repo).rstrip("/")
        if url in seen:
            raise ConfigError(
                f"The mirror {name!r} is the same place as {seen[url]!r}: {url}",
                remedy="Give each repository a URL of its own.",
            )
        seen[url] = name
    if isinstance(copies, int) and copies > 1 + len(mirrors):
        raise ConfigError(
            f"copies is {copies}, and there are {1 + len(mirrors)} repositories.",
            remedy="Name another mirror, or write a smaller number, or all.",
        )


def copies_wanted(settings: Settings) -> int:
    """How many repositories must have what is reported as done."""
    copies: int | Literal["all"] = settings.copies
    return 1 + len(settings.mirrors) if copies == "all" else copies
