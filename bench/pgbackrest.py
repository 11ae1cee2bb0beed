"""pgBackRest, set up as its user guide recommends for speed: bundles, blocks, zstd level 3."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.context import Case, Context, Outcome, check_restored, empty, size_of
from bench.measure import run_measured
from bench.server import run_tool

SHOWN = (
    "repo1-bundle=y repo1-block=y compress-type=zst compress-level=3 process-max={} start-fast=y"
)


@dataclass(frozen=True)
class PgBackRest:
    """One repository of pgBackRest; ``cipher`` is ``none`` (its default) or ``aes-256-cbc``.
    ``store`` are options that name another place than a directory."""

    context: Context
    cipher: str = "none"
    store: Mapping[str, object] = field(default_factory=dict)

    @property
    def _home(self) -> Path:
        return self.context.work / f"pgbackrest-{self.cipher}"

    @property
    def repository(self) -> Path:
        """Where it keeps its backups."""
        return self._home / "repo"

    @property
    def config(self) -> Path:
        return self.context.work / f"pgbackrest-{self.cipher}.conf"

    def command(self, *arguments: str) -> list[str]:
        """The program with its configuration, without asking the environment."""
        return [
            str(self.context.peers.pgbackrest),
            f"--config={self.config}",
            "--stanza=main",
            *arguments,
        ]

    def create(self) -> None:
        """A new, empty repository, and the server archiving into it."""
        empty(self._home)
        self._write_config()
        run_tool(self.command("stanza-create"), {})
        self.context.server.archive_with(" ".join(self.command("archive-push", "%p")))

    def backup(self) -> Outcome:
        """A full backup into a new repository."""
        self.create()
        self.context.settle()
        usage = run_measured(
            self.command("--type=full", "backup"),
            {},
            work=self.context.work,
            server_cpu=self.context.server.children_cpu_seconds,
        )
        return Outcome(usage, size_of(self.repository / "backup"))

    def restore(self) -> Outcome:
        """A restore of what :meth:`backup` made last into an empty directory."""
        target = empty(self.context.work / "restored")
        self.context.settle()
        usage = run_measured(
            self.command(f"--pg1-path={target}", "restore"), {}, work=self.context.work
        )
        check_restored(self.context, target)
        return Outcome(usage)

    def _write_config(self) -> None:
        server = self.context.server
        options = {
            "repo1-path": self.repository,
            "repo1-bundle": "y",
            "repo1-block": "y",
            "compress-type": "zst",
            "compress-level": "3",
            "process-max": self.context.processes,
            "start-fast": "y",
            "log-level-console": "warn",
            "log-level-file": "off",
            "lock-path": self._home / "lock",
            "spool-path": self._home / "spool",
            "cmd": self.context.peers.pgbackrest,
            **self.store,
        }
        if self.cipher != "none":
            options |= {"repo1-cipher-type": self.cipher, "repo1-cipher-pass": "benchmark " * 4}
        cluster = {
            "pg1-path": server.pgdata,
            "pg1-socket-path": server.socket,
            "pg1-user": "postgres",
            "pg1-database": "postgres",
        }
        lines = ["[global]", *(f"{name}={value}" for name, value in options.items())]
        lines += ["[main]", *(f"{name}={value}" for name, value in cluster.items())]
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)


def pgbackrest_cases(context: Context) -> list[Case]:
    """The rows of pgBackRest."""
    plain, sealed = PgBackRest(context), PgBackRest(context, "aes-256-cbc")
    options = SHOWN.format(context.processes)
    command = f"pgbackrest --type=full backup ({options})"
    return [
        Case("pgbackrest", "pgBackRest, not encrypted", "backup", command, plain.backup),
        Case(
            "pgbackrest-aes",
            "pgBackRest, aes-256-cbc",
            "backup",
            f"{command[:-1]} repo1-cipher-type=aes-256-cbc)",
            sealed.backup,
        ),
        Case(
            "pgbackrest-restore",
            "pgBackRest, not encrypted",
            "restore",
            f"pgbackrest restore (process-max={context.processes})",
            plain.restore,
        ),
        Case(
            "pgbackrest-aes-restore",
            "pgBackRest, aes-256-cbc",
            "restore",
            f"pgbackrest restore (process-max={context.processes} repo1-cipher-type=aes-256-cbc)",
            sealed.restore,
        ),
    ]
