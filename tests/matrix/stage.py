"""Where a command runs: a cluster, a repository in memory behind a store that fails, a clock.

A stage is set once for what several runs begin with, and copied for each of them. Commands run in
this process, from the command line on, with the retries that they have there; only the clock is
ours, so that ten minutes of an outage take none.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pgkeep.__main__ import main
from pgkeep.archive.cluster import LocalCluster
from pgkeep.archive.patience import Patience
from pgkeep.archive.push import PushTarget, push_file
from pgkeep.archive.source import WalSource
from pgkeep.repository.catalogue import list_backups
from pgkeep.repository.holder import Process
from pgkeep.repository.host import HostState
from pgkeep.repository.identity import Repository, Unlock, open_repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.lease import Lease
from pgkeep.repository.wal import open_wal_object
from pgkeep.seal import age
from pgkeep.storage.faulty import FaultyStore
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.retry import RetryingStore
from tests.archive.kit import MIB
from tests.backup.format_reader import ReadBackup
from tests.matrix.standin import Cluster, StandIn
from tests.server_user import server_user

_URL = "memory://stage"
_LONGEST_SECONDS = 20.0
_BEGINNINGS = itertools.count(1)


class Outcome(NamedTuple):
    """How a command ended: its code, and the document that it printed."""

    code: int
    document: dict[str, Any]
    said: str


class Stage:
    """One cluster and its repository, which is ``sealed`` or not. Use ``copy`` to run things."""

    def __init__(self, root: Path, *, sealed: bool = True) -> None:
        self.root, self.sealed = root, sealed
        root.mkdir(parents=True, exist_ok=True)
        self.secret, self.public = age.generate_identity()
        self.store = FaultyStore(MemoryStore(_URL))
        self.cluster = Cluster(root / "data")
        self.slept = 0.0

    def copy(self, root: Path) -> Stage:
        """The same, with a store that is sound and has counted nothing."""
        other = Stage.__new__(Stage)
        other.root, other.sealed = root, self.sealed
        other.secret, other.public = self.secret, self.public
        shutil.copytree(self.root, root, symlinks=True)
        inner = MemoryStore(_URL)
        # In the order of their writing, which a stale listing goes by.
        for info in sorted(self.healthy.list(), key=lambda info: info.modified):
            inner.put(info.key, self.healthy.get(info.key))
        other.slept = 0.0
        other.store = FaultyStore(inner, sleep=other._sleep)
        other.cluster = Cluster.at(root / "data", self.cluster)
        return other

    @property
    def healthy(self) -> MemoryStore:
        """The store as it is."""
        assert isinstance(self.store.store, MemoryStore)
        return self.store.store

    # -- running ---------------------------------------------------------------------------------

    def run(self, command: str, *words: str, identity: bool = False) -> Outcome:
        """Run a command; AssertionError when it hangs, has a bug, or errs without a remedy."""
        out, err = io.StringIO(), io.StringIO()
        began = time.monotonic()
        with self._surroundings(identity=identity), redirect_stdout(out), redirect_stderr(err):
            code = main([command, *words, "--json"])
        assert time.monotonic() - began < _LONGEST_SECONDS, "it hung"
        said = f"{command} {' '.join(words)} ended with {code}\n{out.getvalue()}\n{err.getvalue()}"
        document = _last_document(out.getvalue())
        assert "has a bug" not in said, said
        assert "Traceback" not in said, said
        if "error" in document:
            assert document["what"], said
            assert document["remedy"], said
        return Outcome(code, document, said)

    def must(self, command: str, *words: str, identity: bool = False) -> Outcome:
        """The same; AssertionError unless it succeeds."""
        outcome = self.run(command, *words, identity=identity)
        assert outcome.code == 0, outcome.said
        return outcome

    @contextmanager
    def _surroundings(self, *, identity: bool) -> Iterator[None]:
        signals = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
        variables = {
            "PGKEEP_REPO": _URL,
            "PGKEEP_STATE": str(self.root / "state"),
            "PGKEEP_PGDATA": str(self.cluster.path),
            "PGKEEP_JOBS": "1",
            "PGKEEP_NICE": "off",
            "PGKEEP_ARCHIVE_TIMEOUT": "5",
        }
        if identity and self.sealed:
            variables["PGKEEP_IDENTITY"] = self.secret
        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("PGKEEP_")]:
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.chdir(self.cluster.path)
            patch.setattr("pgkeep.storage.open_store", lambda url, *_, **__: self.store)
            patch.setattr("pgkeep.postgres.connection.connect", lambda _: self._connect())
            patch.setattr("pgkeep.cli.wal._default_signals", lambda: None)
            patch.setattr("pgkeep.repository.lease.this_process", _ended_process)
            for kind in (Lease, Patience):
                defaults = kind.__init__.__kwdefaults__ or {}
                patch.setitem(defaults, "clock", self._now)
                patch.setitem(defaults, "pause", self._sleep)
            patch.setattr(RetryingStore, "now", lambda _: self._now())
            patch.setattr(RetryingStore, "pause", lambda _, seconds: self._wait(seconds))
            patch.setattr(Lease, "renew_seconds", 3600.0)
            try:
                yield
            finally:
                for number, handler in signals.items():
                    signal.signal(number, handler)

    def _now(self) -> float:
        return time.monotonic() + self.slept

    def _sleep(self, seconds: float) -> None:
        self.slept += seconds

    def _wait(self, seconds: float) -> bool:
        self._sleep(seconds)
        return True

    def _connect(self) -> StandIn:
        return StandIn(self.cluster, self._archive)

    def _archive(self, source: WalSource) -> None:
        repository = self.repository()
        control = self.cluster.control
        target = PushTarget(
            repository,
            LocalCluster(str(self.cluster.path), control.system_identifier, MIB),
            self.layout,
            "stage",
        )
        push_file(source, target)

    # -- looking ---------------------------------------------------------------------------------

    @property
    def layout(self) -> Layout:
        return Layout("main", self.cluster.control.system_identifier)

    def repository(self) -> Repository:
        """Opened with everything that opens it, as the store is."""
        unlock = Unlock([self.secret]) if self.sealed else Unlock()
        return open_repository(self.healthy, HostState(self.root / "reader"), unlock=unlock)

    def check(self) -> list[str]:
        """What is listed is whole, and is what the cluster was; returns the names."""
        if not self.healthy.exists("pgkeep/repository"):
            return []
        listed = list_backups(self.repository(), self.layout)
        for backup in listed:
            identity = self.secret if self.sealed else ""
            read = ReadBackup(self.healthy, self.layout.root, backup.id, identity=identity)
            read.check_everything()
            expected = self._content_of(backup.id)
            assert {*expected} == {*read.files} - {"backup_label"}
            for path, content in expected.items():
                assert read.content(path) == content, path
        self._check_wal()
        return [backup.id for backup in listed]

    def _check_wal(self) -> None:
        """Every stored segment is whole, and is the server's."""
        repository = self.repository()
        for info in self.healthy.list(self.layout.wal):
            _, frames = open_wal_object(self.healthy.get(info.key), info.key, repository.keyring)
            name = info.key.rpartition("/")[2]
            assert b"".join(frames) == self.wal(name), name

    def restore(self, *words: str, into: str) -> Outcome:
        """Restore; what came of it is checked if that succeeded, and is unusable if not."""
        place = self.root / into
        owner = ["--owner", server_user().name] if os.geteuid() == 0 else []
        outcome = self.run(
            *("restore", "--into", str(place), "--wal", "copied", "--progress", "none"),
            *(*owner, *words),
            identity=True,
        )
        if outcome.code:
            assert not (place / "global/pg_control").exists()
            return outcome
        for path, content in self._content_of(outcome.document["backup"]).items():
            assert (place / path).read_bytes() == content, path
        names = (place / "pgkeep_wal/list").read_text().split()
        assert names
        for name in names:
            assert (place / "pgkeep_wal" / name).read_bytes() == self.wal(name)
        return outcome

    def wal(self, name: str) -> bytes:
        return (self.cluster.path / "pg_wal" / name).read_bytes()

    def _content_of(self, backup: str) -> dict[str, bytes]:
        return self.cluster.states[backup[:11]]


def _last_document(text: str) -> dict[str, Any]:
    """``wal-push`` prints one for each thing that it did."""
    document: dict[str, Any] = {}
    while text := text.strip():
        document, end = json.JSONDecoder().raw_decode(text)
        text = text[end:]
    return document


def _ended_process(host: str) -> Process:
    """Each run is a process of its own, which has ended when the next one looks."""
    from pgkeep.repository.holder import this_process

    return this_process(host)._replace(start=next(_BEGINNINGS))
