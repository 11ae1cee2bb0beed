"""Names that are not in the table are refused with the nearest right one."""

from __future__ import annotations

from typing import NoReturn

from pgkeep.config.table import BY_NAME, Setting
from pgkeep.errors import ConfigError


def known(name: str, what: str) -> Setting:
    return BY_NAME.get(name) or unknown(name, what, list(BY_NAME))


def unknown(name: str, what: str, candidates: list[str]) -> NoReturn:
    import difflib

    near = difflib.get_close_matches(name, candidates, 1, 0.5)
    raise ConfigError(
        f"{name} is not a known {what}.",
        remedy=(f"Did you mean {near[0]}? " if near else "") + "pgkeep config lists all settings.",
        name=name,
    )
