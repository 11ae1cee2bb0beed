"""pgkeep itself, run as a user runs it: its command line, in processes of its own.

The repository is sealed to a recipient. Backup and archiving run without the identity, as on
a database host; ``init`` and ``restore`` are given it.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.context import Case, Context, Outcome, check_restored, empty, size_of
from bench.floors import CHECKOUT, LEVEL
from bench.measure import run_measured
from bench.peers import BenchError
from bench.server import clean_env, run_tool

KEYGEN = "import pyrage; i = pyrage.x25519.Identity.generate(); print(i); print(i.to_public())"


@dataclass(frozen=True)
class Program:
    """How pgkeep is started: an installed command, or this checkout's modules."""

    command: tuple[str, ...]
    env: dict[str, str]
    version: str


def find_program(work: Path, *, given: str | None) -> Program | None:
    """pgkeep as given, or beside this Python, or of this checkout; None if it does not run."""
    env: dict[str, str] = {}
    script = Path(sys.executable).with_name("pgkeep")
    if given is not None:
        command = tuple(shlex.split(given))
    elif script.exists():
        command = (str(script),)
    else:
        command = (sys.executable, "-m", "pgkeep")
        # Compiled once, as an installation would have it, and never into the checkout.
        env = {
            "PYTHONPATH": str(CHECKOUT / "src"),
            "PYTHONPYCACHEPREFIX": str(work / "pycache"),
        }
    try:
        done = subprocess.run(
            [*command, "--version"],
            env=clean_env(env),
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise BenchError(f"{command[0]} cannot be started: {error.strerror}.") from error
    if done.returncode != 0:
        if given is not None:
            raise BenchError(f"{given} --version failed: {done.stderr[-500:]}")
        return None
    return Program(command, env, done.stdout.strip().removeprefix("pgkeep").strip())


@dataclass(frozen=True)
class Pgkeep:
    """One repository of pgkeep; ``level`` is zstd's, None for pgkeep's own default. ``store`` are
    variables that name another place than a directory."""

    context: Context
    program: Program
    level: int | None
    name: str
    store: Mapping[str, str] = field(default_factory=dict)

    @property
    def _home(self) -> Path:
        return self.context.work / f"pgkeep-{self.name}"

    @property
    def env(self) -> dict[str, str]:
        """What a database host has: no identity among it."""
        return {
            **self.program.env,
            **self.context.server.env,
            "PGDATABASE": "postgres",
            "PGKEEP_REPO": f"file://{self._home / 'repo'}",
            "PGKEEP_STATE": str(self._home / "state"),
            "PGKEEP_PGDATA": str(self.context.pgdata),
            **self.store,
        }

    @property
    def owner_env(self) -> dict[str, str]:
        """The same with the identity that opens the repository."""
        return {**self.env, "PGKEEP_IDENTITY": str(self._home / "identity")}

    def command(self, *arguments: str) -> list[str]:
        return [*self.program.command, *arguments]

    def create(self) -> None:
        """A new, empty repository, and the server archiving into it."""
        empty(self._home)
        for part in ("repo", "state"):
            (self._home / part).mkdir(mode=0o700)
        identity, recipient = run_tool([sys.executable, "-c", KEYGEN], {}).split()
        (self._home / "identity").write_text(identity + "\n")
        (self._home / "identity").chmod(0o600)
        run_tool(self.command("init", "--recipient", recipient), self.owner_env)
        self.context.server.archive_with(f"{self._archive_script()} %p")

    def backup(self) -> Outcome:
        """A full backup into a new repository."""
        self.create()
        self.context.settle()
        usage = run_measured(
            self.command("backup", *self.options(), "--json"),
            self.env,
            work=self.context.work,
            server_cpu=self.context.server.children_cpu_seconds,
        )
        # WAL is left out, as it is for the others.
        stored = size_of(self._home / "repo") - sum(
            size_of(path) for path in (self._home / "repo").rglob("wal") if path.is_dir()
        )
        return Outcome(usage, stored, reported(usage.output))

    def restore(self) -> Outcome:
        """A restore of what :meth:`backup` made last into an empty directory."""
        target = empty(self.context.work / "restored")
        self.context.settle()
        jobs = f"--jobs={self.context.processes}"
        usage = run_measured(
            self.command("restore", "--latest", "--into", str(target), jobs, "--json"),
            self.owner_env,
            work=self.context.work,
        )
        check_restored(self.context, target)
        return Outcome(usage, None, reported(usage.output))

    def options(self) -> list[str]:
        level = [] if self.level is None else [f"--level={self.level}"]
        return [f"--jobs={self.context.processes}", "--no-nice", *level]

    def _archive_script(self) -> Path:
        script = self._home / "archive"
        names = " ".join(f"{name}={shlex.quote(value)}" for name, value in self.env.items())
        command = shlex.join(self.command("wal-push"))
        script.write_text(f'#!/bin/sh\nexport {names}\nexec {command} "$1"\n')
        script.chmod(0o700)
        return script


def reported(output: str) -> dict[str, object]:
    """The numbers of a program's last JSON object, flat: ``timings.copy`` for nested fields."""
    for text in (output, output.strip().rpartition("\n")[2]):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, dict):
            return _flat(found, "")
    return {}


def _flat(tree: dict[str, object], prefix: str) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, (int, float)):
            flat[f"{prefix}{name}"] = value
    return flat


def pgkeep_cases(context: Context, program: Program) -> list[Case]:
    """The rows of pgkeep: at the peers' zstd level, and as it comes."""
    equal = Pgkeep(context, program, LEVEL, "equal")
    default = Pgkeep(context, program, None, "default")
    jobs = f"--jobs {context.processes}"
    title, own = f"pgkeep, sealed, zstd level {LEVEL}", "pgkeep, sealed, its default level"
    restore = f"pgkeep restore --latest --into DIR {jobs}"
    return [
        Case(
            "pgkeep",
            title,
            "backup",
            f"pgkeep backup {jobs} --no-nice --level {LEVEL}",
            equal.backup,
        ),
        Case("pgkeep-default", own, "backup", f"pgkeep backup {jobs} --no-nice", default.backup),
        Case("pgkeep-restore", title, "restore", restore, equal.restore),
        Case("pgkeep-default-restore", own, "restore", restore, default.restore),
    ]
