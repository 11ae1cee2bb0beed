"""``pgkeep version``."""

from __future__ import annotations

import platform
from argparse import ArgumentParser, Namespace
from importlib import metadata
from importlib.util import find_spec

from pgkeep import __version__
from pgkeep.cli.context import Context

EXAMPLES = (
    ("pgkeep version", "version of pgkeep and of the libraries it uses"),
    ("pgkeep version --json", "the same for a bug report's script"),
)
_LIBRARIES = ("blake3", "cryptography", "numpy", "psycopg", "pyrage", "zstandard")


def add_arguments(parser: ArgumentParser) -> None:
    """No arguments of its own."""


def run(context: Context, args: Namespace) -> int:
    """Print the versions."""
    libraries = {name: _version_of(name) for name in _LIBRARIES}
    native = find_spec("pgkeep.postgres._pages") is not None
    document = {
        "pgkeep": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "native_pages": native,
        "libraries": libraries,
    }

    def render() -> None:
        context.output.say(f"pgkeep {__version__}")
        context.output.say(f"Python {platform.python_version()} on {platform.platform()}")
        context.output.say(" · ".join(f"{name} {found}" for name, found in libraries.items()))
        context.output.say("page checksums: " + ("C module" if native else "numpy (no C module)"))

    context.output.result(document, render)
    return 0


def _version_of(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "missing"
