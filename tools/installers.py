"""The ways to make a virtual environment and to install into it.

Debian's python3 comes without ensurepip and without pip, so the plain way often fails. Any pip
of at least 22.3 can install into an environment of another Python, virtualenv brings pip of
its own, and uv needs none. Each way is simply tried; the first that works is used.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tools.pythons import Refused, pythons_with

# A command line, to which what shall be installed is appended.
Command = list[str]
_PIP_OPTIONS = ["--quiet", "--no-input", "--disable-pip-version-check"]


def make_venv(python: str, venv: Path, *, log: Path) -> Command:
    """Make the environment and return the command that installs into it.

    Raises Refused if no way works.
    """
    for attempt in _ways():
        shutil.rmtree(venv, ignore_errors=True)
        command = attempt(python, venv, log)
        if command is not None:
            return command
    shutil.rmtree(venv, ignore_errors=True)
    raise Refused(
        f"{python} has neither ensurepip nor pip, and no virtualenv or uv is at hand.\n"
        "Install the first: apt-get install python3-venv"
    )


# Makes the environment; its answer is the command that installs, or None if that fails.
Way = Callable[[str, Path, Path], Command | None]


def _ways() -> Iterator[Way]:
    yield _plain_venv
    for other in pythons_with("pip"):
        yield partial(_pip_of, other)
    if program := shutil.which("virtualenv"):
        yield partial(_virtualenv, [program])
    for other in pythons_with("virtualenv"):
        yield partial(_virtualenv, [other, "-m", "virtualenv"])
    if program := shutil.which("uv"):
        yield partial(_uv, program)


def _plain_venv(python: str, venv: Path, log: Path) -> Command | None:
    made = run([python, "-m", "venv", str(venv)], log=log)
    return _own_pip(venv) if made else None


def _pip_of(other: str, python: str, venv: Path, log: Path) -> Command | None:
    made = run([python, "-m", "venv", "--without-pip", str(venv)], log=log)
    pip = [other, "-m", "pip", "--python", str(venv / "bin" / "python")]
    # A pip that is too old for --python says so here.
    answers = made and run([*pip, "--version"], log=log)
    return [*pip, "install", *_PIP_OPTIONS] if answers else None


def _virtualenv(program: Command, python: str, venv: Path, log: Path) -> Command | None:
    made = run([*program, "--quiet", "-p", python, str(venv)], log=log)
    return _own_pip(venv) if made else None


def _uv(program: str, python: str, venv: Path, log: Path) -> Command | None:
    made = run([program, "venv", "--quiet", "-p", python, str(venv)], log=log)
    # Links into root's cache would be closed to the servers' user.
    options = ["--quiet", "--link-mode=copy", "--compile-bytecode"]
    install = [program, "pip", "install", *options, "--python", str(venv / "bin" / "python")]
    return install if made else None


def _own_pip(venv: Path) -> Command:
    return [str(venv / "bin" / "python"), "-m", "pip", "install", *_PIP_OPTIONS]


def run(argv: list[str], *, log: Path) -> bool:
    """Run a step quietly; what it says goes to the log."""
    with open(log, "a") as file:
        file.write(f"$ {' '.join(argv)}\n")
        file.flush()
        with tempfile.TemporaryDirectory(prefix="pgkeep-home-") as home:
            environment = clean_environment(home)
            try:
                done = subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment,
                    check=False,
                )
            except OSError as error:
                file.write(f"{error}\n")
                return False
    return done.returncode == 0


def clean_environment(home: str) -> dict[str, str]:
    """Our environment, less what would make an installer put things elsewhere.

    Where packages come from (index, proxy, certificates) stays the user's choice. ``home`` is
    used only if the user has none.
    """
    elsewhere = (
        *("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"),
        *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_REQUIRE_VIRTUALENV"),
        *("PIP_NO_DEPS", "PIP_NO_COMPILE", "PIP_REQUIREMENT", "PIP_CONSTRAINT", "PIP_PYTHON"),
    )
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}
    environment["PIP_ROOT_USER_ACTION"] = "ignore"
    if not Path(environment.get("HOME") or "/nonexistent").is_dir():
        environment["HOME"] = home
    return environment
