"""Help is enough to use a command: what for, examples, grouped options, never wider than a page."""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess

import pytest

from pgkeep.__main__ import main
from pgkeep.cli.commands.completion import SHELLS, completion_script
from pgkeep.cli.parsing import load_command
from pgkeep.cli.table import COMMANDS

NAMES = [command.name for command in COMMANDS]


def run(*arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and error of a command run in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize("name", NAMES)
def test_help_says_what_for_and_shows_examples(name: str) -> None:
    code, text, _ = run(name, "--help")
    command = next(command for command in COMMANDS if command.name == name)
    assert code == 0
    assert command.summary in text
    for line, _meaning in load_command(command).EXAMPLES:
        assert line in text
    for option in ("--json", "--verbose", "--config", "--repo", "--cluster", "--progress"):
        assert option in text
    assert max(len(line) for line in text.splitlines()) < 100


@pytest.mark.parametrize("name", NAMES)
def test_help_may_be_asked_for_before_the_command_and_by_name(name: str) -> None:
    assert run("--help", name)[1] == run(name, "-h")[1] == run("help", name)[1]


def test_overview_names_every_command() -> None:
    code, text, _ = run("--help")
    assert code == 0
    assert all(f"\n  {name} " in text for name in NAMES)
    assert max(len(line) for line in text.splitlines()) < 100


def test_without_a_command_the_overview_is_shown_and_nothing_was_done() -> None:
    assert run()[0] == 2


def test_a_family_of_commands_shows_its_members() -> None:
    code, text, _ = run("dump", "--help")
    assert code == 0
    assert run("help", "dump")[1] == run("--help", "dump")[1] == text
    assert all(f"  {name} " in text for name in NAMES if name.startswith("dump "))
    assert "\n  backup " not in text
    assert run("dump")[0] == 2
    code, _, err = run("dump", "crate")
    assert code == 2
    assert "Did you mean dump create?" in err
    assert run("dump", "--json", "create", "--help") == run("dump", "create", "--help")


def test_misspelt_command_is_refused_with_the_nearest_right_one() -> None:
    code, out, err = run("bakup")
    assert (code, out) == (2, "")
    assert "Did you mean backup?" in err
    assert "[exit 2 · docs: reference/exit-codes]" in err


@pytest.mark.parametrize(
    "arguments",
    [("list", "--no-such-option"), ("show",), ("restore", "--latest"), ("backup", "extra")],
)
def test_command_line_that_makes_no_sense_exits_with_2(arguments: tuple[str, ...]) -> None:
    code, _, err = run(*arguments)
    assert code == 2
    assert f"pgkeep {arguments[0]} --help" in err


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_every_command(shell: str) -> None:
    script = completion_script(shell)
    assert all(word in script for name in NAMES for word in name.split())
    assert "at-once" in script
    assert "new-system" in script


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_completion_script_parses(shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    script = completion_script(shell)
    subprocess.run([program, "-n"], input=script, text=True, check=True, capture_output=True)


def test_completion_script_completes_in_bash() -> None:
    """The script is run, not only parsed: what does it offer after ``pgkeep re``?"""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    script = completion_script("bash")
    asked = f"{script}\nCOMP_WORDS=(pgkeep re); COMP_CWORD=1; _shtab_pgkeep; echo ${{COMPREPLY[@]}}"
    done = subprocess.run([bash, "-c", asked], text=True, check=True, capture_output=True)
    assert done.stdout.split() == ["release", "restore"]
