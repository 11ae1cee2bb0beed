"""Whatever happens, a person gets sentences, a machine gets one document, and a caller a code."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from pgkeep import __version__
from pgkeep.__main__ import command_position
from pgkeep.cli import failure, main, privileges
from pgkeep.cli.context import Context
from pgkeep.cli.log import log_line
from pgkeep.cli.main import own_program
from pgkeep.cli.output import Output
from pgkeep.cli.table import COMMANDS
from pgkeep.errors import ConfigError, TargetNotReachable
from tests.cli.test_help import run
from tests.program import pgkeep_program
from tests.server_user import popen_as_server_user, scrubbed_environment, server_user


class FakeCommand:
    """Stands in for a command's module; ``run`` does what a test wants."""

    EXAMPLES = (("pgkeep version", "for a test"),)

    def __init__(self, action) -> None:
        self._action = action

    def add_arguments(self, parser: object) -> None:
        pass

    def run(self, context: Context, args: Namespace) -> int:
        self._action(context)
        return 0


@pytest.fixture
def command_that(monkeypatch: pytest.MonkeyPatch):
    """Make ``pgkeep version`` do something else."""

    def replace(action) -> None:
        monkeypatch.setattr("pgkeep.cli.parsing.load_command", lambda _: FakeCommand(action))

    return replace


def raising(error: BaseException):
    def action(_: Context) -> None:
        raise error

    return action


def test_error_says_what_why_and_what_next(command_that) -> None:
    command_that(raising(TargetNotReachable("WHAT.", why="WHY.", remedy="NEXT.")))
    code, out, err = run("version")
    assert (code, out) == (21, "")
    assert err == "WHAT.\nWHY.\nNEXT.        [exit 21 · docs: guide/restore]\n"


def test_error_is_one_document_on_standard_output_with_json(command_that) -> None:
    command_that(raising(TargetNotReachable("WHAT.", why="WHY.", remedy="NEXT.", lsn="0/1")))
    code, out, _ = run("version", "--json")
    document = json.loads(out)
    assert (code, document["exit_code"], document["error"]) == (21, 21, "TargetNotReachable")
    assert (document["what"], document["facts"]) == ("WHAT.", {"lsn": "0/1"})


def test_bug_is_called_a_bug_and_the_traceback_needs_asking_for(command_that) -> None:
    command_that(raising(ZeroDivisionError("oops")))
    code, _, err = run("version")
    assert code == 1
    assert "pgkeep has a bug: ZeroDivisionError: oops" in err
    assert "Traceback" not in err
    assert "Traceback" in run("version", "-v")[2]


def test_full_disk_and_refusing_system_have_codes_of_their_own() -> None:
    assert failure.as_known(OSError(errno.ENOSPC, "full", "/x")).exit_code == 45
    assert failure.as_known(PermissionError(errno.EACCES, "no", "/x")).exit_code == 4
    assert "/x" in str(failure.as_known(PermissionError(errno.EACCES, "no", "/x")))


def test_ctrl_c_ends_with_130(command_that) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        command_that(raising(KeyboardInterrupt()))
        assert run("version")[0] == 130
    finally:
        signal.signal(signal.SIGINT, before)


def test_sigterm_ends_with_143_after_cleaning_up() -> None:
    """A command that waits is told to end, as a service manager does it."""
    script = (
        "import sys, time\n"
        "from pgkeep.cli import parsing\n"
        "class Waiting:\n"
        "    EXAMPLES = (('pgkeep version', 'x'),)\n"
        "    def add_arguments(self, parser): pass\n"
        "    def run(self, context, args):\n"
        "        try:\n"
        "            print('ready', flush=True)\n"
        "            time.sleep(60)\n"
        "        finally:\n"
        "            print('cleaned up', flush=True)\n"
        "parsing.load_command = lambda _: Waiting()\n"
        "from pgkeep.cli.main import main\n"
        "sys.exit(main(['version']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**scrubbed_environment(), "PYTHONPATH": ":".join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (143, "cleaned up\n")
    assert "Stopped by SIGTERM" in err


def test_reader_that_goes_away_is_no_error_to_talk_about() -> None:
    process = popen_as_server_user(
        [pgkeep_program(), "completion", "zsh"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(30), err) == (141, b"")


@pytest.mark.parametrize(
    ("words", "position"),
    [
        (["list"], 0),
        (["-v", "--json", "list", "-v"], 2),
        (["--config", "list", "show"], 2),
        (["--config=x", "show"], 1),
        (["--help"], None),
        ([], None),
        (["--repo"], None),
    ],
)
def test_command_is_found_behind_common_options(words: list[str], position: int | None) -> None:
    assert command_position(words) == position


def test_common_options_may_stand_before_the_command() -> None:
    code, out, _ = run("--json", "version")
    assert (code, json.loads(out)["pgkeep"]) == (0, __version__)


@pytest.mark.parametrize("name", ["wal-push", "wal-fetch"])
def test_commands_that_the_server_calls_import_no_argparse(name: str) -> None:
    script = (
        "import sys\nfrom pgkeep.__main__ import main\n"
        f"main(['-v', '{name}'])\n"
        "print(sorted(set(sys.modules) & {'argparse', 'rich', 'psycopg', 'numpy', 'dataclasses'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**scrubbed_environment(), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_overview_imports_no_command() -> None:
    script = (
        "import sys\nfrom pgkeep.__main__ import main\nmain(['--help'])\n"
        "print([name for name in sys.modules if name.startswith('pgkeep.cli.commands')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**scrubbed_environment(), "PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_program_is_known_by_an_absolute_path(tmp_path: Path, monkeypatch) -> None:
    script = tmp_path / "pgkeep"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert own_program("./pgkeep") == (str(script),)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert own_program("pgkeep") == (str(script),)
    assert own_program(str(tmp_path / "__main__.py"))[-3:] == (sys.executable, "-m", "pgkeep")


def test_only_what_root_must_do_as_root_is_done_as_root() -> None:
    as_owner = {command.name for command in COMMANDS if command.as_owner}
    assert {
        *("init", "setup", "backup", "mark", "list", "show", "copy", "verify"),
        *("hold", "release", "expire", "delete", "undelete", "keys"),
        *("dump create", "dump list", "dump show", "dump restore", "dump expire", "dump delete"),
    } == as_owner


def test_log_line_is_time_level_cluster_operation_event_and_facts() -> None:
    line = log_line("info", "main", "backup", event="copy began", facts={"a": 1, "b": 'x "y"'})
    assert line.split(" ", 1)[1] == 'info main backup copy-began a=1 b="x \\"y\\""'


def test_table_has_no_colour_where_it_is_not_wanted() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def table(environ: dict[str, str]) -> str:
        out = Terminal()
        Output(stdout=out, environ=environ).table(("a", "b"), [("long", "x")])
        return out.getvalue()

    assert table({"NO_COLOR": "1"}) == "a      b\nlong   x\n"
    assert table({}).startswith("\x1b[2ma      b\x1b[0m\n")


def test_program_that_only_root_can_read_is_refused_and_no_bug(monkeypatch) -> None:
    """A Python under /root, as version managers install it: imports would fail half-way."""
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    with pytest.raises(ConfigError, match="cannot read it") as refused:
        privileges._check_program_readable(privileges.Owner(os.geteuid(), os.getegid(), "a test"))
    assert "pip install" in str(refused.value.remedy)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be mistaken for another user")
def test_restore_by_root_uses_what_the_owner_of_the_data_directory_knows(
    monkeypatch, tmp_path: Path
) -> None:
    """Else the fingerprint that ``init`` accepted would go on being refused by ``restore``."""
    repository, state = tmp_path / "repository", tmp_path / "state"
    for place in (repository, state):
        place.mkdir()
        os.chown(place, server_user().uid, -1)
    monkeypatch.setattr(
        privileges,
        "state_directory",
        lambda _, uid: state if uid == server_user().uid else tmp_path / "roots-own",
    )
    context = Context(
        Namespace(),
        Output(),
        environ={"PGKEEP_REPO": f"file://{repository}", "PGHOST": str(tmp_path)},
        program=("pgkeep",),
        owner_uid=0,
    )
    assert privileges.state_owner(context) == server_user().uid
    state.rmdir()
    assert privileges.state_owner(context) == 0


@pytest.mark.parametrize(
    ("command", "told"), [("restore", "remove the directory"), ("backup", "No backup was made")]
)
def test_stopped_command_says_what_became_of_what_was_begun(command: str, told: str) -> None:
    text = io.StringIO()
    main._interrupted(KeyboardInterrupt(), Output(stderr=text), ["--cluster", "a", command])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert told in text.getvalue()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_command_ends_without_looking_for_garbage_and_without_idle_threads() -> None:
    """Both take longer than a small command does."""
    code = (
        "import atexit, gc, os\n"
        "atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"  # called last
        "from pgkeep.__main__ import main\n"
        "main(['version'])\n"
        "import numpy\n"
        "print(len(os.listdir('/proc/self/task')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={}
    )
    assert done.stdout.splitlines()[-2:] == ["1", "True"]
