"""A quiet cluster of a few files, and what its server would say.

The files are enough for a backup: pg_control is a real one, relations are random pages. The server
archives a segment when it is told to switch, by ``push_file`` into the healthy store: what the
store does to ``wal-push`` is that command's own row of the matrix.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString

from pgkeep.archive.source import WalSource
from pgkeep.postgres.connection import ServerConnection
from pgkeep.postgres.facts import ServerFacts
from pgkeep.postgres.lsn import Timeline
from pgkeep.postgres.wal_name import segment_name
from tests.archive.kit import MIB, DataDirectory

PAGE = 8192
_BEGIN = datetime(2026, 11, 20, 12, tzinfo=UTC)


class Cluster(DataDirectory):
    """A data directory that belongs to whoever runs the tests. ``segment`` is the one in which the
    server writes. ``states`` is what the files were when a backup was begun, by the hour that its
    name begins with, ``20261120T13``."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.segment = 3
        self.states: dict[str, dict[str, bytes]] = {}
        self.put("postgresql.conf", "port = 5432\n")
        self.put("global/pg_filenode.map", "map")
        (path / "pg_xact").mkdir()
        (path / "pg_xact/0000").write_bytes(bytes(PAGE))
        (path / "base/5").mkdir(parents=True)
        chance = random.Random(1)
        for name, pages in (("16384", 40), ("16385", 7), ("16386", 1)):
            (path / "base/5" / name).write_bytes(chance.randbytes(pages * PAGE))

    @classmethod
    def at(cls, path: Path, like: Cluster) -> Cluster:
        """A copy of ``like``, which lies at ``path``."""
        copy = cls.__new__(cls)
        copy.path, copy.segment_mib = path, like.segment_mib
        copy.segment, copy.states = like.segment, dict(like.states)
        return copy

    def own(self) -> None:
        """What is run here runs as ourselves."""

    def change(self, seed: int) -> None:
        """Some pages differ now, one file is new and one is gone."""
        chance = random.Random(seed)
        with (self.path / "base/5/16384").open("r+b") as file:
            for page in chance.sample(range(40), 5):
                file.seek(page * PAGE)
                file.write(chance.randbytes(PAGE))
        (self.path / f"base/5/2{seed:04d}").write_bytes(chance.randbytes(3 * PAGE))
        (self.path / "base/5/16386").unlink(missing_ok=True)

    def content(self) -> dict[str, bytes]:
        """What a backup made now must restore."""
        return {
            name: path.read_bytes()
            for path in sorted(self.path.rglob("*"))
            if path.is_file()
            and not (name := str(path.relative_to(self.path))).startswith("pg_wal")
        }

    def next_segment(self, *, ready: bool = False) -> str:
        """Fill the present segment; its name."""
        name = segment_name(1, self.segment, MIB)
        chance = random.Random(self.segment)
        self.add_segment(name, fill=chance.randbytes(4096), ready=ready)
        self.segment += 1
        return name


class StandIn(ServerConnection):
    """A session with the server of ``cluster``. ``archive`` is called with each full segment."""

    def __init__(self, cluster: Cluster, archive: Callable[[WalSource], object]) -> None:
        self._cluster, self._archive = cluster, archive
        self._begun = _BEGIN

    @property
    def version_num(self) -> int:
        return (self._cluster.control.major or 18) * 10000 + 4

    def rows(
        self, query: LiteralString, parameters: Sequence[object] = ()
    ) -> list[tuple[Any, ...]]:
        answers: dict[str, Callable[[], tuple[Any, ...]]] = {
            "pg_is_in_recovery() FROM pg_stat_archiver": lambda: (
                0,
                *[None] * 2,
                0,
                *[None] * 2,
                0,
            ),
            "SELECT pg_is_in_recovery()": lambda: (False,),
            "pg_backup_start": self._start,
            "pg_backup_stop": self._stop,
            "pg_switch_wal": lambda: (self._switch(),),
            "pg_control_checkpoint()": self._checkpoint,
            "FROM pg_control_system()": lambda: (self._cluster.control.system_identifier,),
        }
        return next([answer()] for words, answer in answers.items() if words in query)

    def server_facts(self) -> ServerFacts:
        control = self._cluster.control
        return ServerFacts(
            version_num=self.version_num,
            version=f"PostgreSQL {self.major}.4 on a stage",
            system_identifier=control.system_identifier,
            timeline=Timeline(1),
            is_in_recovery=False,
            # Unknown, so that a restore does not look for the original on this machine.
            data_directory=None,
            config_file=None,
            hba_file=None,
            ident_file=None,
            block_size=PAGE,
            wal_block_size=PAGE,
            wal_segment_size=MIB,
            relation_segment_blocks=(1 << 30) // PAGE,
            data_checksums=False,
            wal_level="replica",
            archive_mode="on",
            archive_command="pgkeep wal-push %p",
            archive_library="",
            archive_timeout_seconds=60,
            restore_command="",
            shared_preload_libraries=(),
            cluster_name="",
            host="/nowhere",
            port=5432,
            listen_addresses="",
            unix_socket_directories="/nowhere",
            max_connections=10,
            max_worker_processes=8,
            max_wal_senders=2,
            max_replication_slots=2,
            max_prepared_transactions=0,
            max_locks_per_transaction=64,
            libc_collation_version=None,
            icu_collation_version=None,
            databases=(),
            tablespaces=(),
            extensions=(),
        )

    def close(self) -> None:
        """Nothing is open."""

    def _start(self) -> tuple[Any, ...]:
        """Backups begin an hour apart, and take no time."""
        states = self._cluster.states
        self._begun = _BEGIN + timedelta(hours=len(states))
        states[f"{self._begun:%Y%m%dT%H}"] = self._cluster.content()
        return self._begun, self._lsn(0x28)

    def _stop(self) -> tuple[Any, ...]:
        label = f"START WAL LOCATION: {self._lsn(0x28)}\nLABEL: pgkeep\nSTART TIMELINE: 1\n"
        return self._switch(), label.encode(), b"", self._begun

    def _switch(self) -> str:
        stop = self._lsn(0x100)
        name = self._cluster.next_segment()
        with WalSource(os.path.join(self._cluster.path, "pg_wal", name)) as source:  # noqa: PTH118
            self._archive(source)
        return stop

    def _checkpoint(self) -> tuple[Any, ...]:
        control = self._cluster.control
        copy = control.checkpoint_copy
        return (
            *(str(control.checkpoint), str(copy.redo), int(copy.timeline)),
            *(int(copy.previous_timeline), copy.next_xid_text, copy.time),
            control.system_identifier,
        )

    def _lsn(self, offset: int) -> str:
        return f"0/{self._cluster.segment * MIB + offset:X}"
