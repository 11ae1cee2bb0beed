"""Settings: what there is to set, where a value came from, and where a host keeps its state.

A setting comes from an option, else from the environment (``PGKEEP_X``, or ``PGKEEP_X_FILE`` for
the content of a file), else from the TOML file, else from a variable of the store's provider
(``AWS_REGION``), else it has a default. Where it came from is
remembered, because "which file said that?" is the first question when something is wrong.
A name that is not in the table is refused with the nearest right one: a misspelt setting that is
silently ignored is a backup that silently goes elsewhere.

This package is read before every ``wal-push``, so it imports next to nothing, reads a secret's
file only when the secret is asked for (the server's user may not be allowed to, and need not),
and counts cores only when somebody wants to know.

The environment itself is handed in: only the command line reads ``os.environ``.
"""

from pgkeep.config.settings import Settings
from pgkeep.config.sources import load_settings
from pgkeep.config.state import state_directory
from pgkeep.config.table import DEFAULT_CONFIG_FILE, PREFIX, SETTINGS, Setting
from pgkeep.config.values import is_key_text

__all__ = [
    "DEFAULT_CONFIG_FILE",
    "PREFIX",
    "SETTINGS",
    "Setting",
    "Settings",
    "is_key_text",
    "load_settings",
    "state_directory",
]
