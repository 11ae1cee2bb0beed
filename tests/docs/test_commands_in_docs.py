"""What README and documentation tell people to type is typed here.

All commands but those of ``not_run.py`` are run, page by page, on a real server with a repository
of its own, and sessions must print what the page shows. Every command line is parsed as well.
``WRITE_DOCS=1`` puts what is printed into the pages, to be looked at and cut.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from pgkeep.cli import parsing
from pgkeep.cli.table import BY_NAME
from pgkeep.config.sources import load_settings
from pgkeep.errors import PgkeepError
from tests.docs.likeness import missing_line
from tests.docs.not_run import RULES, why_not
from tests.docs.pages import ROOT, Block, Step, all_pages, blocks_of, inline_commands, steps_of
from tests.docs.world import World
from tests.installations import Installation, find_installations
from tests.object_stores import object_service

_PROGRESS = re.compile(r" …$|^(restoring|copying|comparing) .*: .* in \S+ m?s")
_WORDS_OF_NO_COMMAND = ("…", "...")
_PROGRAMS = (
    "age age-keygen aws cat cd cp curl docker dpkg export gcloud ln make mkdir mv pgkeep pip psql "
    r"python3? pg_\w+ rm runuser sudo systemctl tar"
)
_LIKE_A_COMMAND = re.compile(
    rf"(?:\$ |[A-Z_]+=\S+ )*(?:{_PROGRAMS.replace(' ', '|')})(?: (?!.*\S {{3,}}[^#\s])|$)"
)


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def _is_run(page: Path) -> bool:
    return any(not step.hidden and not why_not(page, step.command) for step in steps_of(page))


PAGES = all_pages()
RUN = [page for page in PAGES if _is_run(page)]


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_command_lines_are_understood(page: Path) -> None:
    for block in blocks_of(page):
        if isinstance(block, Step):
            continue
        for number, line in block.pgkeep_lines():
            where = f"{_name(page)}:{number}: {line}"
            try:
                _parse(line)
            except PgkeepError as error:
                pytest.fail(f"{where}\n{error}")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_and_options_within_sentences_exist(page: Path) -> None:
    for number, text in inline_commands(page):
        words = text.replace("\\n", " \\n").split()
        if words[0].startswith("-") or "\\n" in words:  # what all commands take, or stored text
            continue
        where = f"{_name(page)}:{number}: pgkeep {text}"
        try:
            command, _ = parsing.split_command(words)
        except PgkeepError as error:
            if not any(name.startswith(f"{words[0]} ") for name in BY_NAME):
                pytest.fail(f"{where}\n{error}")
            continue  # a group of commands, as a whole
        assert command is not None, where
        parser = parsing.command_parser(command, parsing.load_command(command))
        for word in words[1:]:
            option = word.strip("[],…").partition("=")[0]
            if option.startswith("--"):
                assert option in parser._option_string_actions, where


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_command_lines_are_complete_for_the_shell(page: Path) -> None:
    script = "\n".join(step.command for step in steps_of(page))
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_stand_in_blocks_that_are_run(page: Path) -> None:
    for block in blocks_of(page):
        if isinstance(block, Step) or block.kind in ("console", "sh", "toml"):
            continue
        for number, line in enumerate(block.text, start=block.line + 1):
            if _LIKE_A_COMMAND.match(line):
                assert why_not(page, line), f"{_name(page)}:{number}: not run: {line}"


def test_each_command_that_is_not_run_is_there() -> None:
    found = {why_not(page, step.command) for page in PAGES for step in steps_of(page)}
    for page in PAGES:
        for block in blocks_of(page):
            if isinstance(block, Block):
                found |= {why_not(page, line) for line in block.text}
    assert [rule for rule in RULES if rule not in found] == []


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_settings_that_pages_show_are_understood(page: Path, tmp_path: Path) -> None:
    for block in blocks_of(page):
        if isinstance(block, Block) and block.kind == "toml":
            file = tmp_path / f"{block.line}.toml"
            file.write_text("\n".join(_last_of_each(block.text)))
            load_settings({}, config_file=str(file))


def _last_of_each(text: list[str]) -> Iterator[str]:
    """Settings; of a name that stands twice in turn, a default and another value, the other."""
    for line, following in pairwise([*text, ""]):
        name = line.partition("=")[0]
        if not name or name != following.partition("=")[0]:
            yield line


def test_a_line_that_is_wrong_is_found() -> None:
    for wrong in (
        "pgkeep bakcup",
        "pgkeep list --costs",
        "pgkeep restore --time x --lsn 0/1 --into",
    ):
        with pytest.raises(PgkeepError):
            _parse(wrong)


@pytest.fixture
def page(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


@pytest.fixture
def world(
    request: pytest.FixtureRequest,
    page: Path,
    newest_installation: Installation,
    pgkeep_program: Path,
) -> Iterator[World]:
    """The page's host, as its comments ``<!-- world: … -->`` say: bare, or with an older server, or
    with a store that knows S3."""
    text = page.read_text()
    store = {}
    if "<!-- world: s3 -->" in text:
        store = {**object_service(request, "moto").environ, "PGKEEP_REPO": "s3://acme-backups/pg"}
    installations = [newest_installation]
    if "<!-- world: older -->" in text:
        found = find_installations()
        # The latest minor release of 17 keeps notes in column options that an older one of 18 does
        # not know: pg_upgrade wants the newer major to be up to date, too.
        majors = sorted(found.keys() - {17})
        if len(majors) < 2:
            pytest.skip("an upgrade takes two versions of PostgreSQL")
        installations.insert(0, found[majors[-2]])
    ready = "<!-- world: bare -->" not in text
    world = World(installations, pgkeep_program, ready=ready, store=store)
    yield world
    world.close()


@pytest.mark.parametrize("page", RUN, ids=_name, indirect=True)
def test_sessions_print_what_the_page_shows(page: Path, world: World) -> None:
    written: dict[int, list[str]] = {}
    for step in steps_of(page):
        if why_not(page, step.command):
            continue
        where = f"{_name(page)}:{step.line}: {step.command}"
        printed = world.run(step.command, code=None)
        expected = {0, *(code for code in (world.code,) if _shows_code(step, code))}
        if os.environ.get("WRITE_DOCS") == "1":
            written[step.line] = printed.splitlines()
            continue
        assert world.code in expected, f"{where}\nexit code {world.code}\n{printed}"
        missing = missing_line(step.shown, printed)
        assert missing is None, f"{where}\nnot printed: {missing}\n--- it printed\n{printed}"
    if written:
        _write(page, written)


def _shows_code(step: Step, code: int) -> bool:
    return any(f"exit {code}" in line for line in step.shown)


def _parse(line: str) -> None:
    """Raise what the program would raise for these words."""
    words = shlex.split(line, comments=True)
    while words[0] != "pgkeep":
        words.pop(0)
    for end, word in enumerate(words):
        if word in ("|", "&&", "||", ">", ">>", ";", "2>&1"):
            words = words[:end]
            break
    words = [word for word in words[1:] if word not in _WORDS_OF_NO_COMMAND]
    command, rest = parsing.split_command(words)
    if command is not None:
        with suppress(SystemExit):  # --help
            parsing.command_parser(command, parsing.load_command(command)).parse_args(rest)


def _write(page: Path, written: dict[int, list[str]]) -> None:
    commands = {step.line for step in steps_of(page) if not step.hidden}
    result: list[str] = []
    waiting: list[str] | None = None
    skipping = False
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        if waiting is not None and not line.startswith("> "):
            result += waiting
            waiting, skipping = None, True
        if number in commands:
            waiting = [line.rstrip() for line in written[number] if not _PROGRESS.search(line)]
        if skipping and not line.startswith(("$ ", "```")):
            continue
        skipping = False
        result.append(line)
    page.write_text("\n".join(result) + "\n")
