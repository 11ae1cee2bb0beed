"""The commands of the matrix: with what each begins, what it promises when it says success."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pgkeep.repository.system import read_systems
from pgkeep.storage.faults import Failure
from tests.matrix.calls import Call, calls_of
from tests.matrix.stage import Outcome, Stage

# With these a store hides something and says so to nobody. What is told may then be less than
# what is there, and never more.
HIDING = (Failure.ABSENT, Failure.TRUNCATED, Failure.STALE, Failure.FLIPPED)


class Stages:
    """What runs begin with. Each is set once, and only copies are used."""

    def __init__(self, root: Path, *, sealed: bool = True) -> None:
        self._root, self._sealed = root, sealed

    @cached_property
    def empty(self) -> Stage:
        """A cluster, and no repository."""
        return Stage(self._root / "empty", sealed=self._sealed)

    @cached_property
    def made(self) -> Stage:
        """A repository that knows the cluster, and a segment to push."""
        stage = self.empty.copy(self._root / "made")
        stage.must("init", *sealing(stage))
        stage.cluster.next_segment(ready=True)
        return stage

    @cached_property
    def backed(self) -> Stage:
        """Two backups, the second an increment, WAL behind them, and changes since."""
        stage = self.made.copy(self._root / "backed")
        for seed in (1, 2):
            stage.must("backup")
            stage.cluster.change(seed)
        for _ in range(2):
            stage.must("wal-push", f"pg_wal/{stage.cluster.next_segment()}")
        return stage


def sealing(stage: Stage) -> tuple[str, ...]:
    return ("--recipient", stage.public) if stage.sealed else ("--no-encryption",)


@dataclass(frozen=True)
class Row:
    """One command. ``run`` may be called again on the same stage. ``promise`` is what a success
    must have done; ``clean`` is how it ends on a sound store."""

    name: str
    stage: Callable[[Stages], Stage]
    run: Callable[[Stage], Outcome]
    promise: Callable[[Stage, Outcome], object]
    prepare: Callable[[Stage], object] = lambda stage: None
    shows: tuple[str, ...] = ()
    failing_codes: tuple[range, ...] = (range(40, 73), range(13, 14), range(20, 25))
    success: int = 0

    def begin(self, stages: Stages, root: Path) -> Stage:
        stage = self.stage(stages).copy(root)
        self.prepare(stage)
        return stage

    def clean(self, stages: Stages, root: Path) -> tuple[Outcome, list[Call]]:
        """A run on a sound store, and the calls that it made."""
        stage = self.begin(stages, root)
        stage.store.calls.clear()
        outcome = self.run(stage)
        assert outcome.code == self.success, outcome.said
        self.promise(stage, outcome)
        return outcome, calls_of(stage.store.calls)


# -- promises -------------------------------------------------------------------------------------


def _knows_the_cluster(stage: Stage, outcome: Outcome) -> None:
    """Once, and whoever was given the identity opens the repository."""
    identifier = stage.cluster.control.system_identifier
    systems = read_systems(stage.healthy, "main")
    assert [system.system_identifier for system in systems] == [identifier]
    assert stage.repository().identity.id == outcome.document["repository_id"]
    assert stage.run("list").code == 0


def _has_the_segment(stage: Stage, outcome: Outcome) -> None:
    name = _last_segment(stage)
    assert stage.healthy.exists(stage.layout.wal_file(name)), outcome.said


def _has_the_backup(stage: Stage, outcome: Outcome) -> None:
    """Under both prefixes, and it restores."""
    name = outcome.document["backup"]
    assert name in stage.check()
    assert stage.healthy.exists(stage.layout.manifest(name))
    assert stage.healthy.exists(stage.layout.manifest_copy(name))
    done = stage.restore("--backup", name, into=f"of {name}")
    assert done.code == 0, done.said


def _fetched(stage: Stage, outcome: Outcome) -> None:
    target = stage.cluster.path / "pg_wal/RECOVERYXLOG"
    assert target.read_bytes() == stage.wal(_last_segment(stage))


def _fetched_nothing(stage: Stage, outcome: Outcome) -> None:
    assert not (stage.cluster.path / "pg_wal/RECOVERYXLOG").exists()


def _nothing(stage: Stage, outcome: Outcome) -> None:
    """What it says is compared, or was looked at on the way."""


def _last_segment(stage: Stage) -> str:
    return max(path.name for path in (stage.cluster.path / "pg_wal").glob("0*"))


# -- commands -------------------------------------------------------------------------------------


def _fetch(stage: Stage, name: str, *plan: str) -> Outcome:
    (stage.cluster.path / "pg_wal/RECOVERYXLOG").unlink(missing_ok=True)
    return stage.run("wal-fetch", *plan, name, "pg_wal/RECOVERYXLOG", identity=True)


def _fetch_last(stage: Stage) -> Outcome:
    name = _last_segment(stage)
    return _fetch(stage, name, f"--plan={name}")


def _fetch_absent(stage: Stage) -> Outcome:
    return _fetch(stage, "0000000100000000000000F0")


def _restore(stage: Stage) -> Outcome:
    return stage.restore(into=f"back {len([*stage.root.glob('back *')])}")


def _as_another_host(stage: Stage) -> None:
    shutil.rmtree(stage.root / "state")


def _push_before(stage: Stage) -> None:
    stage.must("wal-push", f"pg_wal/{_last_segment(stage)}")
    shutil.rmtree(stage.root / "state/ahead", ignore_errors=True)


def _without_cache(stage: Stage) -> None:
    shutil.rmtree(stage.root / "state/hashes")


ROWS = (
    Row(
        "init",
        lambda stages: stages.empty,
        lambda stage: stage.run("init", *sealing(stage)),
        _knows_the_cluster,
    ),
    Row(
        "init-join",
        lambda stages: stages.made,
        lambda stage: stage.run("init", identity=True),
        _knows_the_cluster,
        prepare=_as_another_host,
        # A store that says there is no repository is believed: how is a new one to be sealed?
        failing_codes=(range(2, 3), range(40, 73)),
    ),
    Row(
        "wal-push",
        lambda stages: stages.made,
        lambda stage: stage.run("wal-push", f"pg_wal/{_last_segment(stage)}"),
        _has_the_segment,
        failing_codes=(range(1, 126),),
    ),
    Row(
        "wal-push-again",
        lambda stages: stages.made,
        lambda stage: stage.run("wal-push", f"pg_wal/{_last_segment(stage)}"),
        _has_the_segment,
        prepare=_push_before,
        failing_codes=(range(1, 126),),
    ),
    Row(
        "wal-fetch",
        lambda stages: stages.backed,
        _fetch_last,
        _fetched,
        failing_codes=(range(200, 201),),
    ),
    Row(
        "wal-fetch-absent",
        lambda stages: stages.backed,
        _fetch_absent,
        _fetched_nothing,
        failing_codes=(range(200, 201),),
        success=1,
    ),
    Row(
        "backup-full",
        lambda stages: stages.made,
        lambda stage: stage.run("backup"),
        _has_the_backup,
    ),
    Row(
        "backup-incremental",
        lambda stages: stages.backed,
        lambda stage: stage.run("backup"),
        _has_the_backup,
    ),
    Row(
        "backup-without-cache",
        lambda stages: stages.backed,
        lambda stage: stage.run("backup"),
        _has_the_backup,
        prepare=_without_cache,
    ),
    Row(
        "list",
        lambda stages: stages.backed,
        lambda stage: stage.run("list"),
        _nothing,
        shows=("backups", "windows", "gaps", "problems"),
    ),
    Row(
        "show",
        lambda stages: stages.backed,
        lambda stage: stage.run("show", "latest"),
        _nothing,
        shows=("backup", "good", "packs", "freed_bytes", "shared_bytes", "restorable_to"),
    ),
    Row("restore", lambda stages: stages.backed, _restore, _nothing, shows=("backup", "wal")),
)
