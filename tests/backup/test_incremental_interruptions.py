"""Killed or broken off at any moment, an incremental backup leaves what the next one goes on from,
and nothing that makes it wrong (invariants 2, 3 and 11)."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pgkeep.backup import copy, mapping, unfinished
from pgkeep.repository.manifest import read_manifest
from tests import processes
from tests.backup.format_reader import ReadBackup
from tests.backup.lineage import Lineage
from tests.backup.site import Site, Steered, until
from tests.server_user import popen_as_server_user

KILLS, IN_A_ROW = 20, 3  # the last ones have no backup that works between them
# The program, with less patience: it notes every moment how far it is.
IMPATIENT = """
import functools, sys
from pgkeep.backup import copy, run
copy._KEEPALIVE_SECONDS = 0.05
run.BackupOptions = functools.partial(run.BackupOptions, partial_seconds=0.1)
from pgkeep.__main__ import main
sys.exit(main())
"""


def start_program(site: Site, *options: str) -> subprocess.Popen[str]:
    """``pgkeep backup`` as the server's user, with an identity, so that it has a parent."""
    return popen_as_server_user(
        [
            sys.executable,
            "-c",
            IMPATIENT,
            "--config",
            site.config,
            "backup",
            "--jobs",
            "2",
            *options,
        ],
        env={**site.server.env, "PGKEEP_IDENTITY": str(site.root / "identity")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def make_changes(lineage: Lineage, number: int) -> None:
    lineage.server.psql(
        f"UPDATE t SET filler = 'now {number}' WHERE i % 50 = {number};"
        f"CREATE TABLE made_{number} AS SELECT {number} AS i FROM generate_series(1, 20000)"
    )


def backed_up_by_the_program(lineage: Lineage, *options: str) -> float:
    """How long it took, in seconds."""
    began = time.monotonic()
    process = start_program(lineage.site, *options)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return time.monotonic() - began


@pytest.mark.majors(18)
def test_killed_at_any_moment_and_gone_on_from(lineage: Lineage) -> None:
    site, chance = lineage.site, random.Random(9)
    lineage.server.psql(
        "CREATE TABLE t AS SELECT i, repeat('x', 60) AS filler FROM generate_series(1, 100000) i"
    )
    gently = ("--rate-limit", "40MiB")
    backed_up_by_the_program(lineage)
    make_changes(lineage, 0)
    whole = backed_up_by_the_program(lineage, *gently)
    outcomes: list[int] = []
    while (killed := outcomes.count(-signal.SIGKILL)) < KILLS:
        make_changes(lineage, len(outcomes) + 1)
        process = start_program(site, *gently)
        try:
            process.communicate(timeout=whole * chance.uniform(0.2, 0.9))
        except subprocess.TimeoutExpired:
            processes.kill_tree(process.pid)
            process.communicate()
        outcomes.append(process.returncode)
        if killed < KILLS - IN_A_ROW:
            backed_up_by_the_program(lineage)
        assert {*outcomes} <= {0, -signal.SIGKILL}
        assert len(outcomes) < 2 * KILLS, "hardly any backup is still there to be killed"
    assert [*site.store.list(site.layout.partials)], "no kill left a partial manifest"
    make_changes(lineage, len(outcomes) + 1)
    last = lineage.backup().head
    assert (last.kind, site.listed()[-1].id) == ("incremental", last.backup)
    for backup in site.listed():
        site.check_restorable(backup)
    lineage.check(last.backup)


# -- gone on from -----------------------------------------------------------------------------


class BrokenOff(Exception):
    """The backup was stopped on purpose."""


# However many of them are noted, no pack holds so little of those that it is retired.
NOISE, SIZE = 6, 21 << 20
PAGES = SIZE // 8192


@pytest.fixture
def noisy(lineage: Lineage, monkeypatch: pytest.MonkeyPatch) -> Lineage:
    """A server with a backup, and since then six files of 21 MiB that no compression shrinks."""
    monkeypatch.setattr(copy, "_KEEPALIVE_SECONDS", 0.05)
    monkeypatch.setattr(unfinished, "_COST", 0)  # else a slow disk makes it wait for a minute
    monkeypatch.setattr(mapping, "_BLOCK_MAPS", 1)  # no file waits for the packs of the next one
    lineage.backup()
    for number in range(NOISE):
        noise(lineage, number).write_bytes(os.urandom(SIZE))
    return lineage


def noise(lineage: Lineage, number: int) -> Path:
    return lineage.server.pgdata / f"noise_{number}"


def files_of_partial(lineage: Lineage) -> set[str]:
    """What the newest partial manifest has of the noise."""
    site = lineage.site
    found = sorted(site.store.list(site.layout.partials), key=lambda info: info.modified)
    if not found:
        return set()
    manifest = read_manifest(site.store, found[-1].key, site.repository().keyring)
    names = {file.path for file in manifest.files() if file.path.startswith("noise_")}
    manifest.close()
    return names


def pages_stored(backup: ReadBackup, path: str) -> int:
    """How many pages of a file this backup's own packs hold."""
    file, own = backup.files[path], bytes.fromhex(backup.head["attempt"])
    frames = [frame for frame in file.frames if file.packs[frame[0]][0] == own]
    return sum(-(-frame[4] // file.page_size) for frame in frames)


def break_off(lineage: Lineage, *, files: int) -> None:
    """A backup that is stopped when so many of the noise are noted in a partial manifest."""

    site = lineage.site
    before = {*site.store.list(site.layout.partials)}

    def is_noted() -> bool:
        is_new = {*site.store.list(site.layout.partials)} > before
        return is_new and len(files_of_partial(lineage)) >= files

    def stop() -> None:
        until(is_noted, what=f"{files} files are noted")
        raise BrokenOff

    progress = StopsAfter((files + 1.7) * SIZE, stop)
    with pytest.raises(BrokenOff):
        lineage.backup(progress=progress, jobs=1, partial_seconds=0.01)


class StopsAfter(Steered):
    """Calls a function when so many bytes were read."""

    def __init__(self, size_bytes: float, do: Callable[[], object]) -> None:
        super().__init__(at="never", do=do)
        self._left = size_bytes

    def advance(self, size_bytes: int) -> None:
        self._left -= size_bytes
        if self._left < 0:
            self._once()


@pytest.mark.majors(18)
@pytest.mark.parametrize("has_cache", [True, False], ids=["cache", "no-cache"])
def test_what_a_backup_had_stored_before_it_broke_off_is_not_stored_again(
    noisy: Lineage, has_cache: bool
) -> None:
    lineage = noisy
    break_off(lineage, files=3)
    kept = files_of_partial(lineage)
    if not has_cache:
        shutil.rmtree(lineage.cache)
        lineage.cache.mkdir()
    changed = lineage.server.pgdata / min(kept)
    with changed.open("r+b") as file:
        file.seek(77 * 8192)
        file.write(os.urandom(8192))
    second = lineage.incremental()
    again = (NOISE - len(kept)) * SIZE
    assert again < second.head.added_bytes < again + (4 << 20)
    backup = lineage.read(second.head.backup)
    backup.check_everything()
    stored = {number: pages_stored(backup, noise(lineage, number).name) for number in range(NOISE)}
    expected = dict.fromkeys(range(NOISE), PAGES)
    expected |= {number: 0 for number in range(NOISE) if noise(lineage, number).name in kept}
    assert stored == {**expected, int(changed.name.removeprefix("noise_")): 1}
    for number in range(NOISE):
        path = noise(lineage, number)
        assert backup.content(path.name) == path.read_bytes()
    lineage.check(second.head.backup)
    assert lineage.incremental().head.added_bytes < 4 << 20


@pytest.mark.majors(18)
@pytest.mark.parametrize("then", [1, 3], ids=["earlier", "later"])
def test_what_broke_off_twice_is_gone_on_from_where_it_was_furthest(
    noisy: Lineage, then: int
) -> None:
    lineage = noisy
    break_off(lineage, files=2)
    kept = files_of_partial(lineage)
    break_off(lineage, files=then)
    kept |= files_of_partial(lineage)
    second = lineage.incremental()
    assert second.head.added_bytes < (NOISE - len(kept)) * SIZE + (4 << 20)
    lineage.check(second.head.backup)
