"""What pages tell people to type and no test types, and why. It is parsed all the same.

A rule is a page (or a folder of pages), the beginning of the command (empty for all), and a reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.docs.pages import ROOT


class Rule(NamedTuple):
    """What is not run."""

    where: str
    beginning: str
    reason: str


_SYSTEM = "puts something into the system, from a package index"
_UNITS = "asks systemd, which is not there where tests run"
_ENGINE = "asks a container engine, and a registry for the image"
_PROVIDER = "is a provider's own program, and asks for an account"
_SETTINGS = "are settings of a store; tests/storage/test_providers.py sends requests with them"

RULES = (
    Rule("README.md", "make demo", "the project's CI runs it, as root and as an ordinary user"),
    Rule("README.md", "make test", "is what runs this"),
    Rule("README.md", "python3 -m venv", _SYSTEM),
    Rule("docs/guide/install.md", "/usr/bin/python3 -m venv", _SYSTEM),
    Rule("docs/guide/install.md", "ln -s", _SYSTEM),
    Rule("docs/guide/install.md", "make deb", "the project's CI builds, installs and removes it"),
    Rule("docs/guide/install.md", "dpkg -i", "the project's CI builds, installs and removes it"),
    Rule("docs/guide/install.md", "systemctl", _UNITS),
    Rule("docs/guide/install.md", "docker", _ENGINE),
    Rule("docs/guide/setup.md", "/usr/bin/python3 -m venv", _SYSTEM),
    Rule("docs/guide/setup.md", "/opt/pgkeep/bin/pip", _SYSTEM),
    Rule("docs/guide/setup.md", "ln -s", _SYSTEM),
    Rule("docs/reference/commands.md", "", "is made from the code: forms of each command"),
    Rule("docs/reference/providers.md", "export", _SETTINGS),
    Rule("docs/reference/stores.md", "export", _SETTINGS),
    Rule("docs/reference/stores.md", "gcloud", _PROVIDER),
    Rule("docs/reference/stores.md", "pgkeep init", "tests/storage and tests/test_object_story do"),
    Rule("docs/format.md", "psql", "is of SQLite; all tests of backups read what it describes"),
)


def why_not(page: Path, command: str) -> Rule | None:
    """The rule by which this command is not run."""
    path = page.relative_to(ROOT)
    for rule in RULES:
        if path.is_relative_to(rule.where) and command.startswith(rule.beginning):
            return rule
    return None
