"""Restoring: plan, then do what the plan says.

The plan is a value: what ``--dry-run`` shows is what the real run is handed. The steps are in
``steps.py``.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from pgkeep import __version__
from pgkeep.errors import DamagedObject, ObjectNotFound
from pgkeep.progress import Progress
from pgkeep.repository.catalogue import load_manifest
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.restore.access import choose_wal_mode
from pgkeep.restore.alternatives import name_alternatives
from pgkeep.restore.binaries import find_pg_ctl
from pgkeep.restore.checking import refuse_check
from pgkeep.restore.commands import drop_command, free_port, start_command
from pgkeep.restore.databases import choose_databases, refuse_selection
from pgkeep.restore.destination import check_empty, find_owner, free_bytes
from pgkeep.restore.here import look_here
from pgkeep.restore.live import original_runs, refuse_live_tablespaces, refuse_shared_places
from pgkeep.restore.pinning import pinned
from pgkeep.restore.plan import FetchAccess, RestoreOptions, RestorePlan, WalMode
from pgkeep.restore.preflight import misfits
from pgkeep.restore.rates import Rates, estimate, now
from pgkeep.restore.resolve import resolve
from pgkeep.restore.reuse import check_reusable, existing_tablespaces, holds_something
from pgkeep.restore.search import WalReader
from pgkeep.restore.steering import DROP_FILE
from pgkeep.restore.steps import Restoration
from pgkeep.restore.tablespaces import linked_tablespaces, place_tablespaces
from pgkeep.restore.unfinished import can_go_on, check_idle


@dataclass(frozen=True)
class RestoreReport:
    """A restore that ended well. ``start``, ``adopt`` and ``drop`` (of the databases that were left
    out) are command lines for a person."""

    plan: RestorePlan
    files: int
    written_bytes: int
    seconds: float
    start: str
    adopt: tuple[str, ...]
    original_runs: bool
    failed_pages: tuple[tuple[str, int], ...]
    drop: str = ""
    server_facts: Mapping[str, Any] = field(default_factory=dict)
    """What the manifest has of the server that was backed up."""
    rates: Rates | None = None
    """What was measured; None after a restore over a directory."""

    def as_dict(self) -> dict[str, Any]:
        """The report as fields, for ``--json``."""
        return {
            **self.plan.as_dict(),
            "files": self.files,
            "written_bytes": self.written_bytes,
            "seconds": round(self.seconds, 3),
            "start": self.start,
            "adopt": list(self.adopt),
            "drop": self.drop or None,
            "damaged_pages": [{"file": path, "page": page} for path, page in self.failed_pages],
        }


def plan_restore(
    repository: Repository,
    layout: Layout,
    options: RestoreOptions,
    *,
    access: FetchAccess,
    progress: Progress,
    rates: Rates | None = None,
) -> RestorePlan:
    """Everything that can be known beforehand; changes nothing anywhere. ``rates`` are those of
    earlier restores on this host.

    Raises ``RestoreError`` and its kinds (``TargetNotReachable``, ``AmbiguousTimeline``,
    ``NoSuchBackup``, ``DirectoryNotEmpty``), ``UsageError``, ``LocalIOError``, ``IdentityNeeded``,
    and what the store raises.
    """
    goes_on = can_go_on(options.into, layout.system_identifier)
    over = goes_on or (options.delta and holds_something(options.into))
    refuse_selection(options, over=over and not goes_on)
    refuse_check(options)
    if over:
        check_reusable(options.into, layout.system_identifier)
    else:
        check_idle(options.into)
        check_empty(options.into)
    owner = find_owner(options.into, options.owner)
    resolution = resolve(repository, layout, options, progress=progress)
    refuse_check(options, resolution.backup.head.postgres_major)
    manifest = load_manifest(repository, layout, resolution.backup)
    segment_size = resolution.backup.head.wal_segment_size
    reader = WalReader(repository, layout, segment_size, progress)
    try:
        server = manifest.facts().get("server", {})
        databases = choose_databases(manifest, server, options)
        refuse_live_tablespaces(reader, resolution, server)
        spaces = place_tablespaces(
            options.into,
            linked_tablespaces(manifest),
            options.tablespaces,
            standing=existing_tablespaces(options.into) if over else {},
        )
        if over:
            refuse_shared_places(options.into, spaces, server)
    finally:
        manifest.close()
    mode, reason = choose_wal_mode(access, repository, owner=owner, wanted=options.wal)
    notes = tuple(f"tablespace {t.name} goes to {t.location} (it was at {t.was})" for t in spaces)
    if over:
        before = "a restore that was broken off is gone on with: " if goes_on else ""
        notes = (f"{before}what stands there is compared, and only what differs is written", *notes)
    here = look_here(resolution.backup.head.postgres_major)
    warnings = (*_warnings_of_standby(options, mode, reason), *misfits(server, here))
    plan = RestorePlan(
        options,
        resolution,
        owner,
        spaces,
        mode,
        reason,
        resolution.wal_files * resolution.backup.head.wal_segment_size,
        free_bytes(options.into),
        notes,
        warnings,
        over,
        goes_on,
        databases=databases,
    )
    if over:
        return plan  # how much is the same already, nobody knows
    sizes = {"write_bytes": plan.write_bytes, "wal_bytes": plan.wal_bytes}
    return replace(plan, estimate=estimate(rates, **sizes, copied=mode == "copied"))


def _warnings_of_standby(options: RestoreOptions, mode: WalMode, reason: str) -> tuple[str, ...]:
    """What keeps a standby from following, said while it can still be changed."""
    if options.standby is None or mode == "fetch":
        return ()
    if options.standby.primary:
        return (
            f"The standby gets no more from the archive than is copied now ({reason}). It must "
            "reach its primary before that removes the WAL that comes next; --slot makes it wait.",
        )
    return (
        f"The standby stands still where the copied WAL ends ({reason}): it has no primary, and "
        "no command that fetches. Give it --primary, or what --wal fetch needs.",
    )


def run_restore(
    repository: Repository,
    layout: Layout,
    plan: RestorePlan,
    *,
    access: FetchAccess,
    progress: Progress,
) -> RestoreReport:
    """Do what ``plan`` says; returns when the directory is complete and durable.

    Raises what :func:`plan_restore` does, and ``DamagedObject``. After any error, and after being
    killed, the directory is one that no server starts from.
    """
    began = time.monotonic()
    backup = plan.resolution.backup
    by = {"host": socket.gethostname(), "pid": os.getpid(), "version": __version__}
    for warning in (*plan.warnings, *plan.resolution.warnings):
        progress.warn(warning)
    with pinned(repository, layout, backup.id, by=by, progress=progress):
        manifest = load_manifest(repository, layout, backup)
        try:
            work = Restoration(repository, layout, plan, access, progress, manifest)
            work.run()
        except (DamagedObject, ObjectNotFound) as error:
            name_alternatives(error, repository, layout)
            raise
        finally:
            manifest.close()
    pg_ctl = find_pg_ctl(backup.head.postgres_major)
    running = original_runs(work.server_facts)
    port = int(work.server_facts.get("port") or 5432)
    if running:
        port = free_port(port + 1)
    return RestoreReport(
        work.plan,
        len(work.files),
        work.written_bytes,
        time.monotonic() - began,
        start_command(plan.options.into, pg_ctl, owner=plan.owner, port=port if running else None),
        work.adopt,
        running,
        tuple(work.failed_pages),
        _drop(plan, pg_ctl, work.server_facts, port) if plan.left_out else "",
        work.server_facts,
        None if plan.over else Rates(now(), work.files_measured, work.wal_measured),
    )


def _drop(plan: RestorePlan, pg_ctl: str | None, server: Mapping[str, Any], port: int) -> str:
    """How to drop what was left out; by the socket, which no other machine has."""
    assert plan.databases is not None
    sockets = str(server.get("unix_socket_directories") or "").split(",")[0].strip()
    names = [one.name for one in plan.databases.restored]
    return drop_command(
        plan.options.into / DROP_FILE,
        pg_ctl,
        owner=plan.owner,
        place=(sockets or "localhost", port),
        database="postgres" if "postgres" in names else "template1",
        user=server.get("superuser"),
    )
