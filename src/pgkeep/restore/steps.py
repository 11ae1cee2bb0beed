"""The steps of a restore, from the first directory to the rename of ``pg_control``.

The order is what makes a crash harmless. Everything is written and synced while
``global/pg_control`` lies under a name that no server looks for; then it is renamed. So a directory
in which a restore was broken off, at whatever moment, is one that PostgreSQL refuses to start.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from pgkeep import __version__
from pgkeep.errors import RestoreError
from pgkeep.postgres.control import CONTROL_PATH, parse_control_file
from pgkeep.postgres.label import TABLESPACE_MAP_FILE, TablespaceLink, format_tablespace_map
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.manifest import OUTSIDE, FileRow, Manifest
from pgkeep.restore import reuse, steering, unfinished
from pgkeep.restore.access import try_fetch
from pgkeep.restore.backup_manifest import FILE_NAME, ManifestFile, build_backup_manifest
from pgkeep.restore.binaries import find_pg_ctl
from pgkeep.restore.blank import checksum_of, make_blank
from pgkeep.restore.commands import adopt_commands
from pgkeep.restore.config_files import KEPT_DIRECTORY, restore_outside_files
from pgkeep.restore.crc import crc32c
from pgkeep.restore.databases import is_blank
from pgkeep.restore.destination import (
    UNFINISHED_CONTROL,
    Maker,
    check_empty,
    check_free,
    device_of,
    make_directories,
    sync_directory,
)
from pgkeep.restore.extras import Extras
from pgkeep.restore.landing import Lander
from pgkeep.restore.maps import MapReader
from pgkeep.restore.plan import FetchAccess, RestorePlan, describe_target
from pgkeep.restore.rates import Measured
from pgkeep.restore.syncing import unwritable
from pgkeep.restore.wal_copy import copy_wal
from pgkeep.units import to_utc_text

_NEVER_PLACED = frozenset({TABLESPACE_MAP_FILE})
_IGNORED_BY_VERIFY = frozenset({steering.AUTO_CONF, "recovery.signal", "standby.signal", FILE_NAME})


class Restoration:
    """One run: its steps, in their order. ``plan`` says at the end what was really done."""

    def __init__(
        self,
        repository: Repository,
        layout: Layout,
        plan: RestorePlan,
        access: FetchAccess,
        progress: Progress,
        manifest: Manifest,
    ) -> None:
        self._repository, self._layout = repository, layout
        self.plan, self._access = plan, access
        self._progress, self._manifest = progress, manifest
        self._into = plan.options.into
        self._head = plan.resolution.backup.head
        self.server_facts: dict[str, Any] = manifest.facts().get("server", {})
        self.files: list[FileRow] = []
        self._blank: list[FileRow] = []
        self.failed_pages: list[tuple[str, int]] = []
        self.written_bytes = 0
        self.files_measured = self.wal_measured = Measured()
        self.adopt: tuple[str, ...] = ()

    def run(self) -> None:
        system = self._layout.system_identifier
        self._progress.phase("reading the list of files")
        rows = [row for row in self._manifest.files() if row.path not in _NEVER_PLACED]
        without = frozenset(one.oid for one in self.plan.left_out)
        self.files = [row for row in rows if not is_blank(row, without)]
        self._blank = [row for row in rows if is_blank(row, without)] if without else []
        maps = MapReader(self._repository, self._layout, self._manifest, self.files)
        self.failed_pages = maps.failed_pages()
        self._check_place()
        self._check_room(maps)
        maker = Maker(self.plan.owner)
        maker.root(self._into)
        # Before it is made unusable: where there is no mark any more, nothing older is left.
        mark = unfinished.begin(
            self._into, system, maker.own, into_empty=not self.plan.over or self.plan.goes_on
        )
        try:
            if not self.plan.over:
                unfinished.check_alone(self._into)
            self._restore(maker, maps)
        finally:
            os.close(mark)

    def _restore(self, maker: Maker, maps: MapReader) -> None:
        if self.plan.over:
            reuse.make_unusable(self._into)
            self._clear()
        make_directories(maker, self._into, self._manifest, self.plan.tablespaces)
        self._make_blank_files(maker)
        checksums = self._write_files(maker, maps)
        extras = Extras(self._into, maker)
        self._write_tablespace_map(extras)
        self._keep_outside_files(extras)
        commands = self._provide_wal(extras)
        control = parse_control_file((self._into / UNFINISHED_CONTROL).read_bytes())
        steering.write_settings(extras, self.plan, control=control, commands=commands)
        self._mark_copy(extras)
        if self.plan.left_out:
            steering.write_drop_file(extras, self.plan.left_out)
        self._write_backup_manifest(extras, checksums)
        self._progress.phase("making the last names durable")
        maker.sync()
        unfinished.unmark(self._into)
        self._finish()

    # -- files ------------------------------------------------------------------------------------

    def _check_place(self) -> None:
        """Again: some time has passed since the plan."""
        if self.plan.over:
            reuse.check_reusable(self._into, self._layout.system_identifier)
        else:
            check_empty(self._into)

    def _clear(self) -> None:
        self._progress.phase("removing what the backup does not have")
        places = (self._place(number) for number in range(len(self.files)))
        files = {str(place.relative_to(self._into)) for place in places}
        files.update(file.path for file in self._blank)
        folders = {path for path, _ in self._manifest.directories()}
        for path in files:
            folders.update(map(str, PurePosixPath(path).parents))
        links = {f"pg_tblspc/{space.oid}": space.location for space in self.plan.tablespaces}
        files |= {unfinished.UNFINISHED_MARK, UNFINISHED_CONTROL}
        for place in reuse.clear(self._into, reuse.Expected(files, folders, links)):
            self._progress.warn(
                f"The tablespace in {place} is not in the backup. Its files were left there."
            )

    def _check_room(self, maps: MapReader) -> None:
        """Files are no larger than they look, so most restores need not know of their holes.

        Tablespaces may lie on disks of their own; each disk is asked for what goes there.
        """
        wal = self.plan.wal_bytes if self.plan.wal_mode == "copied" else 0
        places = {f"pg_tblspc/{space.oid}": space.location for space in self.plan.tablespaces}
        disks = {path: device_of(path) for path in (self._into, *places.values())}
        shares: dict[int, tuple[Path, list[int]]] = {disks[self._into]: (self._into, [])}
        for number, file in enumerate(self.files):
            link = "/".join(file.path.split("/", 2)[:2])
            path = self._into if file.area == OUTSIDE else places.get(link, self._into)
            shares.setdefault(disks[path], (path, []))[1].append(number)
        for path, numbers in shares.values():
            self._check_disk(maps, path, numbers, wal if path == self._into else 0)

    def _check_disk(self, maps: MapReader, path: Path, numbers: list[int], wal: int) -> None:
        if self.plan.over:
            check_free(path, sum(map(self._growth, numbers)) + wal)
            return
        most = sum(self.files[number].size_bytes for number in numbers) + wal
        check_free(path, most, exactly=lambda: maps.data_bytes(numbers) + wal)

    def _growth(self, number: int) -> int:
        try:
            standing = self._place(number).lstat().st_size
        except OSError:
            standing = 0
        return max(0, self.files[number].size_bytes - standing)

    def _write_files(self, maker: Maker, maps: MapReader) -> Sequence[int]:
        files = self.files
        if not any(file.path == CONTROL_PATH for file in files):
            raise RestoreError(
                f"Backup {self._head.backup} has no {CONTROL_PATH}.",
                remedy="Restore another backup; this one was not written by pgkeep.",
            )
        for file in files:
            if file.area == OUTSIDE:
                self._make_parents(maker, self._outside_place(file.path))
        lander = Lander(
            self._repository,
            self._layout,
            maps,
            place=self._place,
            own=maker.own,
            over=self.plan.over,
            advance=self._progress.advance,
        )
        self._progress.phase(f"restoring {len(files)} files")
        self._progress.total(sum(file.size_bytes for file in files), len(files))
        began = time.monotonic()
        lander.land(jobs=self.plan.options.jobs)
        size = sum(file.size_bytes for file in files)
        self.files_measured = Measured(size, time.monotonic() - began)
        self.written_bytes = lander.written_bytes
        return lander.checksums

    def _make_blank_files(self, maker: Maker) -> None:
        if not self._blank:
            return
        self._progress.phase(f"making {len(self._blank)} files of databases that are left out")
        files = ((self._into / one.path, one.size_bytes, one.mode) for one in self._blank)
        make_blank(files, maker.own, over=self.plan.over)

    def _place(self, number: int) -> Path:
        file = self.files[number]
        if file.area == OUTSIDE:
            return self._outside_place(file.path)
        return self._into / (UNFINISHED_CONTROL if file.path == CONTROL_PATH else file.path)

    def _outside_place(self, path: str) -> Path:
        parts = [part for part in path.split("/") if part not in ("", ".", "..")]
        return self._into.joinpath(KEPT_DIRECTORY, *parts)

    def _make_parents(self, maker: Maker, path: Path) -> None:
        for folder in reversed(path.relative_to(self._into).parents[:-1]):
            maker.directory(self._into / folder, 0o700)

    def _write_tablespace_map(self, extras: Extras) -> None:
        """The links that recovery makes anew must be ours, not the original's."""
        links = [TablespaceLink(t.oid, str(t.location)) for t in self.plan.tablespaces]
        if links:
            extras.write(TABLESPACE_MAP_FILE, format_tablespace_map(links))

    def _keep_outside_files(self, extras: Extras) -> None:
        outside = {
            file.path: self._outside_place(file.path).read_bytes()
            for file in self.files
            if file.area == OUTSIDE
        }
        for note in restore_outside_files(extras, outside, self.server_facts):
            self._progress.note(note)

    # -- recovery ---------------------------------------------------------------------------------

    def _provide_wal(self, extras: Extras) -> tuple[str, str]:
        """The restore command and the recovery-end command, with what they need in place."""
        if self.plan.wal_mode == "fetch":
            command = self._provide_fetch(extras)
            if command is not None:
                return command, steering.FETCH_END_COMMAND
        self._progress.phase("copying WAL")
        self._progress.total(self.plan.wal_bytes, self.plan.resolution.wal_files)
        began = time.monotonic()
        copy_wal(
            extras,
            self._repository,
            self._layout,
            self.plan.resolution.wal,
            segment_size=self._head.wal_segment_size,
            jobs=self.plan.options.jobs,
            advance=self._progress.advance,
        )
        self.wal_measured = Measured(self.plan.wal_bytes, time.monotonic() - began)
        return steering.COPIED_RESTORE_COMMAND, steering.COPIED_END_COMMAND

    def _provide_fetch(self, extras: Extras) -> str | None:
        """None when the trial failed, and WAL is to be copied instead."""
        self._progress.phase("trying how the server will fetch WAL")
        steering.write_fetch_config(extras, self._access)
        extras.maker.directory(self._into / steering.FETCH_STATE, 0o700)
        command = steering.fetch_command(self._into, self._access, self.plan)
        problem = try_fetch(
            command,
            self._into,
            control=self._into / UNFINISHED_CONTROL,
            segment=self.plan.resolution.wal.ranges[0].first,
            owner=self.plan.owner,
        )
        if problem is None:
            return command
        if self.plan.options.wal == "fetch":
            raise RestoreError(
                "WAL cannot be fetched by the restored server.",
                why=problem,
                remedy="Leave --wal out: then WAL is copied into the directory.",
            )
        self._progress.warn(
            f"WAL is copied into the directory, since the server could not fetch it: {problem}"
        )
        extras.forget(steering.FETCH_CONFIG)
        extras.maker.remove(self._into / steering.FETCH_STATE)
        check_free(self._into, self.plan.wal_bytes)
        self.plan = replace(self.plan, wal_mode="copied", wal_mode_reason=problem)
        return None

    def _mark_copy(self, extras: Extras) -> None:
        if not self.plan.options.is_copy:
            return
        pg_ctl = find_pg_ctl(self._head.postgres_major)
        self.adopt = adopt_commands(self._into, pg_ctl, owner=self.plan.owner)
        facts = {
            "from": {
                "repository": self._repository.store.url,
                "cluster": self._layout.cluster,
                "system_identifier": str(self._layout.system_identifier),
                "backup": self._head.backup,
                "timeline": self.plan.resolution.timeline,
                "target": describe_target(self.plan.options.target.target),
            },
            "restored": to_utc_text(datetime.now(UTC)),
            "by": {"host": socket.gethostname(), "version": __version__},
        }
        steering.write_copy_mark(extras, facts, self.adopt)

    # -- the end ----------------------------------------------------------------------------------

    def _write_backup_manifest(self, extras: Extras, checksums: Sequence[int]) -> None:
        now = time.time_ns() // 1000
        rows: dict[str, ManifestFile] = {}
        for number, file in enumerate(self.files):
            path = file.path
            if file.area == OUTSIDE:
                path = str(self._outside_place(path).relative_to(self._into))
            rows[path] = ManifestFile(path, file.size_bytes, file.mtime_us, checksums[number])
        for one in self._blank:
            checksum = checksum_of(one.size_bytes)
            rows[one.path] = ManifestFile(one.path, one.size_bytes, one.mtime_us, checksum)
        self._remember_state(extras)
        for extra in extras.files.values():
            rows[extra.path] = ManifestFile(extra.path, extra.size_bytes, now, extra.checksum)
        listed = [rows[path] for path in sorted(rows) if path not in _IGNORED_BY_VERIFY]
        extras.write(FILE_NAME, build_backup_manifest(self._head, listed))

    def _remember_state(self, extras: Extras) -> None:
        """What the trial of fetching left in the server's state directory."""
        for path in sorted((self._into / steering.FETCH_STATE).rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                extras.remember(str(path.relative_to(self._into)), len(content), crc32c(content))

    def _finish(self) -> None:
        """Now, and only now, it becomes a data directory."""
        control = self._into / CONTROL_PATH
        try:
            (self._into / UNFINISHED_CONTROL).rename(control)
        except OSError as error:
            raise unwritable(control, error) from error
        sync_directory(control.parent)
