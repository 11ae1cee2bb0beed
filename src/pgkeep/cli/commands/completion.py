"""``pgkeep completion``: the script by which a shell completes commands and options."""

from __future__ import annotations

import argparse
from argparse import ArgumentParser, Namespace

from pgkeep.cli.context import Context
from pgkeep.cli.parsing import full_parser
from pgkeep.cli.table import COMMANDS, FAMILIES

EXAMPLES = (
    ("pgkeep completion bash > ~/.local/share/bash-completion/completions/pgkeep", "for bash"),
    ("pgkeep completion zsh > ~/.zfunc/_pgkeep", "for zsh, with ~/.zfunc in fpath"),
    ("pgkeep completion fish > ~/.config/fish/completions/pgkeep.fish", "for fish"),
)
SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_arguments(parser: ArgumentParser) -> None:
    """Which shell."""
    parser.add_argument("shell", choices=SHELLS, help="the shell: bash, zsh, fish or tcsh")


def run(context: Context, args: Namespace) -> int:
    """Print the script."""
    script = completion_script(args.shell)
    context.output.result(
        {"shell": args.shell, "script": script}, lambda: context.output.say(script)
    )
    return 0


def completion_script(shell: str) -> str:
    """The script for one of ``SHELLS``."""
    parser = full_parser()
    if shell == "fish":
        return _fish(parser)
    import shtab

    script: str = shtab.complete(parser, shell=shell)
    return script


def _fish(parser: ArgumentParser) -> str:
    """shtab knows no fish; its ``complete`` takes one line for each command and option."""
    lines = ["complete -c pgkeep -f"]
    for family in sorted(FAMILIES):
        lines.append(f"complete -c pgkeep -n __fish_use_subcommand -a {family}")
    for command in COMMANDS:
        first, _, second = command.name.partition(" ")
        when = f"'{_fish_seen(first)}'" if second else "__fish_use_subcommand"
        lines.append(
            f"complete -c pgkeep -n {when} -a {second or first} -d {_fish_quoted(command.summary)}"
        )
    for name, sub in subparsers(parser).items():
        seen = "; and ".join(map(_fish_seen, name.split()))
        for action in sub._actions:
            words = [word[2:] for word in action.option_strings if word.startswith("--")]
            short = [word[1:] for word in action.option_strings if not word.startswith("--")]
            flags = [f"-l {word}" for word in words] + [f"-s {word}" for word in short]
            if flags:
                value = " -r -F" if action.nargs is None else ""
                lines.append(
                    f"complete -c pgkeep -n '{seen}' "
                    f"{' '.join(flags)}{value} -d {_fish_quoted(action.help or '')}"
                )
    return "\n".join(lines)


def subparsers(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    """The parsers of all commands, by name."""
    found: dict[str, ArgumentParser] = {}
    for name, sub in _choices(parser).items():
        members = _choices(sub)
        found |= {f"{name} {second}": one for second, one in members.items()} or {name: sub}
    return found


def _choices(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _fish_seen(word: str) -> str:
    return f"__fish_seen_subcommand_from {word}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
