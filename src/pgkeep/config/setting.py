"""One row of the table of settings."""

from __future__ import annotations

from typing import Any, NamedTuple

PREFIX = "PGKEEP_"


class Setting(NamedTuple):
    """``kind`` says how text becomes a value; see ``values.PARSERS``.

    ``default`` is a value, or a function without arguments that finds one when it is asked for;
    ``shown_default`` is how the reference page puts it.

    ``stores`` are the URL schemes for which it says how the store is reached; each such row is a
    field of ``StoreOptions``. ``also`` are a provider's own variables that count where nothing
    else gives the setting. Those of one ``group`` belong together: once we are given one of
    them, none of the others is taken from the provider's variables, since half of a key pair from
    here and half from there is nobody's.
    """

    name: str
    kind: str
    default: Any
    help: str
    example: str
    secret: bool = False
    shown_default: str = ""
    stores: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    group: str = ""

    @property
    def variable(self) -> str:
        """The name of the environment variable."""
        return PREFIX + self.name.upper()
