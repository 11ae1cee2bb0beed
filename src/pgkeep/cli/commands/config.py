"""``pgkeep config``: the effective settings, and where each came from."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace

from pgkeep.cli.context import Context
from pgkeep.cli.render import pairs
from pgkeep.cli.store_settings import store_names
from pgkeep.config import DEFAULT_CONFIG_FILE, SETTINGS, state_directory
from pgkeep.errors import ConfigError

EXAMPLES = (
    ("pgkeep config", "all settings, and where each came from"),
    ("pgkeep config --config /etc/pgkeep/pgkeep.toml", "check a settings file"),
    ("pgkeep config --json", "the same for a script"),
)


def add_arguments(parser: ArgumentParser) -> None:
    """No arguments of its own."""


def run(context: Context, args: Namespace) -> int:
    """Show them; secrets are only said to be there."""
    settings = context.settings
    owner = _owner(context)
    try:
        state = str(state_directory(settings, owner))
    except ConfigError as error:
        state = f"refused: {error.what}"
    server = {
        name: "(hidden)" if "password" in name else value for name, value in settings.server.items()
    }
    document = {
        "config_file": settings.config_file,
        "state_directory": state,
        "settings": {
            setting.name: {
                "value": None if (shown := settings.shown(setting.name)) == "-" else shown,
                "origin": settings.origins[setting.name],
                "variable": setting.variable,
            }
            for setting in SETTINGS
        },
        "server": server,
        "mirrors": {
            name: {
                setting: {"value": mirror.shown(setting), "origin": mirror.origins[setting]}
                for setting in ("repo", *store_names(mirror))
                if mirror.shown(setting) != "-"
            }
            for name, mirror in settings.mirrors.items()
        },
    }

    def render() -> None:
        # Settings of other stores than the repository's are shown if somebody has set them.
        shown = {name for name, origin in settings.origins.items() if origin != "default"}
        shown.update(store_names(settings))
        rows = [
            (setting.name, settings.shown(setting.name), settings.origins[setting.name])
            for setting in SETTINGS
            if not setting.stores or setting.name in shown
        ]
        for name, mirror in settings.mirrors.items():
            rows += [
                (f"mirrors.{name}.{setting}", mirror.shown(setting), mirror.origins[setting])
                for setting in ("repo", *store_names(mirror))
                if setting == "repo" or mirror.origins[setting] != "default"
            ]
        context.output.table(("setting", "value", "from"), rows)
        context.output.say()
        more = [
            ("settings file", settings.config_file or f"none ({DEFAULT_CONFIG_FILE} is not there)"),
            ("state directory", f"{state} (of user {owner})"),
            ("server", " ".join(f"{name}={value}" for name, value in server.items())),
        ]
        for line in pairs(more, indent=0):
            context.output.say(line)

    context.output.result(document, render)
    return 0


def _owner(context: Context) -> int:
    """As whom other commands would go on."""
    if os.geteuid() != 0:
        return os.geteuid()
    from pgkeep.cli.privileges import find_owner

    found = find_owner(context)
    return found.uid if found else 0
