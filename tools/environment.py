"""Run a program of this checkout in an environment that is made on demand.

    python3 -m tools.environment run [--extras demo,test] PROGRAM [ARGUMENT …]
    python3 -m tools.environment remove

It lies in a directory that every user can enter, and holds a *copy* of the package: the
checkout itself may lie where servers cannot go (see ``pythons``). It is whole or it is not
there: a stamp is written last and says what it was made from, and as long as that is still
so, the start is immediate.

``PGKEEP_NO_NATIVE=1`` makes a second environment without the C module, like one made where
there is no compiler. ``PGKEEP_PYTHON`` names the Python to use, ``TMPDIR`` the folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from tools.installers import clean_environment, make_venv, run
from tools.place import environment_directory, locked, possible_directories
from tools.pythons import Refused, find_python, run_for_servers

CHECKOUT = Path(__file__).resolve().parent.parent
# What the installed package is made of.
SOURCES = ("src", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
NOT_SOURCES = shutil.ignore_patterns("__pycache__", "*.so", "*.pyc", "*.egg-info")
# Present beforehand, so that installing the package again needs no network.
BUILD_REQUIREMENTS = ["setuptools>=77"]

# What the environment was made from, and the command that installs into it.
Stamp = dict[str, Any]


class Environment:
    """One environment directory: the virtual environment, its stamp and its log."""

    def __init__(self, directory: Path, *, native: bool) -> None:
        self.directory = directory
        self.venv = directory / "venv"
        self._native = native
        self._stamp = directory / "stamp.json"
        self._log = directory / "log"
        self._staging = directory / "staging"

    def prepare(self, extras: list[str]) -> None:
        """Make what is missing, install again what has changed. Raises Refused."""
        stamp = self._read_stamp()
        shutil.rmtree(self._staging, ignore_errors=True)
        self._stage()
        wanted = {
            "sources": _digest(self._staging),
            "requirements": _digest(self._staging / "pyproject.toml"),
            "extras": sorted({*extras, *stamp.get("extras", [])}),
            "command": stamp.get("command"),
        }
        if stamp != wanted:
            self._bring_about(wanted, stamp)
            self._write_stamp(wanted)
        shutil.rmtree(self._staging)

    def _bring_about(self, wanted: Stamp, stamp: Stamp) -> None:
        self._stamp.unlink(missing_ok=True)
        self._log.write_text("")
        if not stamp:
            _say(f"Preparing the environment in {self.directory} (first time: about a minute)")
            wanted["command"] = make_venv(find_python(), self.venv, log=self._log)
            self._install(wanted, BUILD_REQUIREMENTS)
        else:
            _say("Updating the environment, since the sources have changed")
        known = [stamp.get("requirements"), stamp.get("extras")]
        if known != [wanted["requirements"], wanted["extras"]]:
            self._install(wanted, ["--no-build-isolation", self._staged_package(wanted)])
        if stamp:
            again = ["--no-deps", "--force-reinstall", "--no-build-isolation", str(self._staging)]
            self._install(wanted, again)
        if run_for_servers([str(self.venv / "bin" / "python"), "-c", "import pgkeep"]) is None:
            raise Refused(f"The environment in {self.directory} does not run as it should.")

    def _stage(self) -> None:
        """A copy to build from: setuptools leaves its work beside the sources."""
        self._staging.mkdir()
        for name in SOURCES:
            source = CHECKOUT / name
            if name == "setup.py" and not self._native:
                continue
            if source.is_dir():
                shutil.copytree(source, self._staging / name, ignore=NOT_SOURCES)
            elif source.exists():
                shutil.copyfile(source, self._staging / name)

    def _staged_package(self, wanted: Stamp) -> str:
        extras = wanted["extras"]
        return f"{self._staging}[{','.join(extras)}]" if extras else str(self._staging)

    def _install(self, wanted: Stamp, requirements: list[str]) -> None:
        if not run([*wanted["command"], *requirements], log=self._log):
            last = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise Refused(f"{last}\n\nThe packages could not be installed; all of it: {self._log}")

    def _read_stamp(self) -> Stamp:
        """Empty if there is none, or if parts of the environment have been cleaned away."""
        try:
            stamp = dict(json.loads(self._stamp.read_text()))
            files = stamp.pop("files")
        except (OSError, ValueError, KeyError):
            return {}
        is_whole = (self.venv / "bin" / "python").exists() and _count_files(self.venv) >= files
        return stamp if is_whole else {}

    def _write_stamp(self, wanted: Stamp) -> None:
        new = self._stamp.with_suffix(".new")
        new.write_text(json.dumps({**wanted, "files": _count_files(self.venv)}))
        new.replace(self._stamp)


def main(arguments: list[str]) -> int:
    """Prepare and become the program, or remove; 1 with a clear line if that is impossible."""
    # Root's umask may be 077, and nothing made here is secret.
    os.umask(0o022)
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "remove":
            return _remove()
        environment = _prepared([extra for extra in options.extras.split(",") if extra])
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return _become([options.program, *options.arguments], environment)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m tools.environment")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run_verb = verbs.add_parser("run", help="run a program in it")
    run_verb.add_argument("--extras", default="", help="of pyproject.toml, with commas")
    run_verb.add_argument("program")
    run_verb.add_argument("arguments", nargs=argparse.REMAINDER)
    verbs.add_parser("remove", help="remove it")
    return parser


def _prepared(extras: list[str]) -> Environment:
    native = os.environ.get("PGKEEP_NO_NATIVE", "") in ("", "0")
    directory = environment_directory(CHECKOUT, variant="" if native else "-pure")
    environment = Environment(directory, native=native)
    with locked(directory):
        environment.prepare(extras)
    return environment


def _become(argv: list[str], environment: Environment) -> int:
    """Replace ourselves, so that Ctrl-C and exit code are the program's own."""
    variables = clean_environment(home=str(environment.directory))
    programs = environment.venv / "bin"
    variables["VIRTUAL_ENV"] = str(environment.venv)
    variables["PATH"] = os.pathsep.join([str(programs), variables.get("PATH", os.defpath)])
    sys.stdout.flush()
    try:
        os.execvpe(argv[0], argv, variables)
    except OSError as error:
        print(f"{argv[0]} cannot be run: {error.strerror}", file=sys.stderr)
        return 127


def _remove() -> int:
    for variant in ("", "-pure"):
        for directory in possible_directories(CHECKOUT, variant=variant):
            if directory.is_dir() and directory.stat().st_uid == os.geteuid():
                _say(f"Removing {directory}")
                shutil.rmtree(directory)
    return 0


def _digest(path: Path) -> str:
    """Of a file's content, or of all names and contents in a directory."""
    digest = hashlib.sha256()
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{file.relative_to(path)} {content}\n".encode())
    return digest.hexdigest()


def _count_files(directory: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(directory))


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
