"""Parsers, made of the table of commands and of each command's own arguments.

Options that every command knows may stand before the command or after it. Each command has a parser
of its own, made when it runs; one parser with all of them exists for completion and the
reference pages only, since it imports every command.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import NoReturn, Protocol

from pgkeep.__main__ import command_position
from pgkeep.cli.output import Output
from pgkeep.cli.table import BY_NAME, COMMANDS, FAMILIES, Command
from pgkeep.errors import UsageError

HELP_WIDTH = 96
PROGRESS_MODES = ("auto", "bar", "lines", "json", "none")


class CommandModule(Protocol):
    """What a module in ``commands/`` offers. ``EXAMPLES`` are (command line, what it does)."""

    EXAMPLES: Sequence[tuple[str, str]]

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help of a fixed width, so that it reads the same everywhere."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28, width=HELP_WIDTH)


class Parser(argparse.ArgumentParser):
    """A parser whose complaints look like every other error."""

    def error(self, message: str) -> NoReturn:
        message = message[:1].upper() + message[1:]
        raise UsageError(f"{message}.", remedy=f"See: {self.prog} --help")


def split_command(arguments: Sequence[str]) -> tuple[Command | None, list[str]]:
    """The command, and all other arguments in their order. Raises ``UsageError``."""
    at = command_position(arguments)
    if at is None:
        return None, list(arguments)
    name = arguments[at]
    rest = [*arguments[:at], *arguments[at + 1 :]]
    if name == "help":
        words = [word for word in arguments[at + 1 :] if not word.startswith("-")]
        return (BY_NAME.get(" ".join(words)) or BY_NAME.get(words[0]) if words else None), [
            *(word for word in words[:1] if word in FAMILIES),
            "--help",
        ]
    if name in FAMILIES:
        second = command_position(rest[at:])
        if second is None:
            return None, [name, *rest]
        name = f"{name} {rest.pop(at + second)}"
    command = BY_NAME.get(name)
    if command is None:
        near = difflib.get_close_matches(name, list(BY_NAME), 1, 0.5)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"{name!r} is not a command of pgkeep.", remedy=f"{hint}See: pgkeep --help"
        )
    return command, rest


def load_command(command: Command) -> ModuleType:
    """The command's module."""
    return importlib.import_module(command.module)


def command_parser(command: Command, module: ModuleType) -> argparse.ArgumentParser:
    """The parser of one command."""
    parser = Parser(
        prog=f"pgkeep {command.name}",
        # The first line says what the command is for; the examples are its usage.
        usage=argparse.SUPPRESS,
        description=describe(command, module),
        formatter_class=Formatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.set_defaults(command=command.name)
    parser._positionals.title = "arguments"
    module.add_arguments(parser)
    add_common(parser)
    return parser


def describe(command: Command, module: ModuleType) -> str:
    """One line on what it is for, and the commonest uses."""
    examples: Sequence[tuple[str, str]] = module.EXAMPLES
    width = max(len(line) for line, _ in examples)
    lines = [f"  {line:<{width}}   {meaning}" for line, meaning in examples]
    if any(len(line) > HELP_WIDTH for line in lines):
        lines = [f"  {line}\n      {meaning}" for line, meaning in examples]
    return "\n".join([command.summary, "", *lines])


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every command."""
    group = parser.add_argument_group("repository and settings")
    group.add_argument("--repo", metavar="URL", help="where backups are kept (PGKEEP_REPO)")
    group.add_argument(
        "--cluster", metavar="NAME", help="name of the cluster there (PGKEEP_CLUSTER; main)"
    )
    group.add_argument(
        "--pgdata", metavar="DIR", help="the data directory as seen from here (PGKEEP_PGDATA)"
    )
    group.add_argument("--config", metavar="FILE", help="the TOML file of settings (PGKEEP_CONFIG)")
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON document on standard output")
    group.add_argument(
        "--progress",
        choices=PROGRESS_MODES,
        default="auto",
        metavar="MODE",
        help="bar, lines, json or none, on standard error (auto: a bar on a terminal)",
    )
    group.add_argument(
        "-v", "--verbose", action="store_true", help="log what is done, on standard error"
    )
    group.add_argument("-h", "--help", action="help", help="show this help")


def full_parser() -> argparse.ArgumentParser:
    """One parser with all commands, for completion and the reference."""
    parser = Parser(
        prog="pgkeep",
        description="Keeps a PostgreSQL cluster recoverable, and proves that it is.",
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(metavar="COMMAND")
    families = {}
    for name in sorted(FAMILIES):
        family = commands.add_parser(name, help=f"{name}: {', '.join(_members(name))}")
        families[name] = family.add_subparsers(metavar="COMMAND")
    for command in COMMANDS:
        module = load_command(command)
        first, _, second = command.name.partition(" ")
        sub = families.get(first, commands).add_parser(
            second or first,
            help=command.summary,
            description=describe(command, module),
            formatter_class=Formatter,
            allow_abbrev=False,
            add_help=False,
        )
        module.add_arguments(sub)
        add_common(sub)
    return parser


def top_level(arguments: Sequence[str], output: Output) -> int:
    """``pgkeep`` without a command: help, or the version."""
    if "--version" in arguments:
        from pgkeep import __version__

        output.result({"pgkeep": __version__}, lambda: output.say(f"pgkeep {__version__}"))
        return 0
    family = next((word for word in arguments if word in FAMILIES), None)
    known = {"-h", "--help", "--json", "-v", "--verbose"}
    unknown = [word for word in arguments if word.startswith("-") and word not in known]
    if unknown:
        raise UsageError(
            f"{unknown[0]} needs a command, or is not known.", remedy="See: pgkeep --help"
        )
    shown = [one for one in COMMANDS if family is None or one.name.split()[0] == family]
    summaries = {command.name: command.summary for command in shown}
    text = overview() if family is None else family_overview(family)
    output.result({"commands": summaries}, lambda: output.say(text))
    asked = set(arguments) & {"-h", "--help"} if family else set(arguments)
    return 0 if asked else UsageError.exit_code


def family_overview(family: str) -> str:
    """The text of ``pgkeep dump --help``."""
    lines = [f"pgkeep {family} COMMAND", ""]
    for command in COMMANDS:
        if command.name.startswith(f"{family} "):
            lines.append(f"  {command.name:<14} {command.summary}")
    return "\n".join([*lines, "", f"See: pgkeep {family} {_members(family)[0]} --help"])


def _members(family: str) -> list[str]:
    """The second words of a family."""
    return [one.name.split()[1] for one in COMMANDS if one.name.startswith(f"{family} ")]


def overview() -> str:
    """The text of ``pgkeep --help``."""
    lines = [
        "pgkeep keeps a PostgreSQL cluster recoverable, and proves that it is.",
        "",
        "  pgkeep demo                               see it work, in a minute",
        "  pgkeep init --repo URL --recipient age1…  begin",
        "  pgkeep list                               what is kept, and when one can go back to",
    ]
    group = ""
    for command in COMMANDS:
        if command.group != group:
            group = command.group
            lines += ["", group]
        lines.append(f"  {command.name:<12} {command.summary}")
    lines += ["", "Each command has --help, --json and -v. Settings: pgkeep config"]
    return "\n".join(lines)
