"""Everything that ``list`` and ``show`` know about one cluster, read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pgkeep.cli.context import Context
from pgkeep.cli.session import open_repo
from pgkeep.cli.systems import (
    KnownSystem,
    count_other_backups,
    known_systems,
    system_layout,
)
from pgkeep.errors import NoSuchBackup
from pgkeep.repository.catalogue import (
    Backup,
    Problem,
    WalInventory,
    Window,
    is_complete,
    is_good,
    read_catalogue_and_wal,
    recovery_windows,
)
from pgkeep.repository.check_records import read_checks
from pgkeep.repository.checks import CheckHistory
from pgkeep.repository.holds import Hold, read_holds
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.trash import Given, read_trash
from pgkeep.storage.fallback import stores_of
from pgkeep.storage.together import together

_USUAL_SEGMENT = 16 << 20


@dataclass(frozen=True)
class ClusterView:
    """One cluster in the repository, under one of its systems; backups oldest first.

    ``problems`` are backups that exist and cannot be read. ``systems`` are all that it had,
    the present one last.
    """

    repository: Repository
    layout: Layout
    backups: tuple[Backup, ...]
    problems: tuple[Problem, ...]
    inventory: WalInventory
    windows: tuple[Window, ...]
    stored_bytes: int
    systems: tuple[KnownSystem, ...]
    checks: CheckHistory
    held: Mapping[str, Hold]
    trashed: Mapping[str, Given]

    @property
    def system_option(self) -> str:
        """What a command needs to reach the system that is shown; empty for the present one."""
        shown = self.layout.system_identifier
        return "" if shown == self.systems[-1].system_identifier else f" --system {shown}"

    def find(self, name: str) -> Backup:
        """A backup by its name, an unmistakable beginning of it, or ``latest``.

        Raises ``NoSuchBackup``.
        """
        found = [backup for backup in self.backups if backup.id.startswith(name)]
        if name == "latest":
            found = list(self.backups[-1:])
        if len(found) == 1:
            return found[0]
        unreadable = [one for one in self.problems if one.backup.startswith(name)]
        if not found and len(unreadable) == 1:
            raise unreadable[0].error
        known = ", ".join(backup.id for backup in (found or self.backups)[-5:]) or "none"
        what = f"{name!r} is the beginning of {len(found)} backups." if found else None
        raise NoSuchBackup(
            what or f"There is no backup {name!r} of the cluster {self.layout.cluster!r}.",
            why=f"There {'are' if found else 'is, last'}: {known}.",
            remedy="pgkeep list shows all.",
        )

    def is_good(self, backup: Backup) -> bool:
        return is_good(backup, self.inventory) and self.obstacle(backup) is None

    def obstacle(self, backup: Backup) -> str | None:
        """Why a backup cannot be restored; None when it can. Damaged pages are no obstacle."""
        if not is_complete(backup, self.inventory):
            return "WAL is missing"
        if self.inventory.history(backup.head.timeline) is None:
            return f"the history file of timeline {backup.head.timeline} is missing"
        return None

    def checked(self, backup: Backup) -> dict[str, str] | None:
        """By which check the backup was proved (``good``), or found broken (``bad``), and when
        (UTC text); None for none."""
        found = self.checks.of_backup(backup.id)
        if found is None:
            return None
        return {
            "level": found.level,
            "at": found.at,
            "result": "good" if found.is_good else "bad",
        }

    def notes(self, backup: Backup) -> list[str]:
        """What a person should know about a backup, most important first."""
        found = []
        if obstacle := self.obstacle(backup):
            found.append(f"cannot be restored: {obstacle}")
        if backup.head.failed_pages:
            found.append(f"{backup.head.failed_pages} damaged pages")
        if not all(backup.copies):
            found.append("one of two manifests is missing")
        if (hold := self.held.get(backup.id)) is not None:
            found.append(f"held: {hold.reason}" if hold.reason else "held")
        if backup.head.note:
            found.append(backup.head.note)
        return found


def view_cluster(context: Context) -> ClusterView:
    """Read the catalogue. Raises what opening and listing raise, ``IdentityNeeded`` above all."""
    settings = context.settings
    repository = open_repo(context, context.owner_uid)
    layout = system_layout(settings, repository, system=context.args.system)
    ((backups, problems), wal), (checks, held), stored, others = together(
        lambda: read_catalogue_and_wal(repository, layout),
        lambda: together(
            lambda: read_checks(repository, layout), lambda: _held(repository, layout)
        ),
        lambda: sum(info.size_bytes for info in repository.store.list(f"{layout.cluster}/")),
        lambda: count_other_backups(settings, repository, layout),
    )
    counts = {**others, layout.system_identifier: len(backups) + len(problems)}
    systems = known_systems(settings, repository, counts=counts)
    inventory = wal.inventory(backups[-1].head.wal_segment_size if backups else _USUAL_SEGMENT)
    windows, trashed = together(
        lambda: recovery_windows(repository, layout, backups, inventory),
        lambda: _trashed(repository, layout, {backup.id for backup in backups}),
    )
    context.log.info("catalogue", backups=len(backups), windows=len(windows))
    return ClusterView(
        repository,
        layout,
        backups,
        problems,
        inventory,
        tuple(windows),
        stored,
        tuple(systems),
        checks,
        held,
        trashed,
    )


def _held(repository: Repository, layout: Layout) -> dict[str, Hold]:
    """What is held in any of the repositories."""
    found: dict[str, Hold] = {}
    for store in stores_of(repository.store):
        found |= read_holds(store, layout).held
    return found


def _trashed(repository: Repository, layout: Layout, present: set[str]) -> dict[str, Given]:
    """What is in the trash of a repository, its manifests still there, and counts in none."""
    found: dict[str, Given] = {}
    for store in stores_of(repository.store):
        trash = read_trash(store, layout)
        found |= {
            name: word
            for name, word in trash.states.items()
            if trash.is_in_trash(name)
            and name not in present
            and (store.exists(layout.manifest(name)) or store.exists(layout.manifest_copy(name)))
        }
    return found


def repository_document(repository: Repository) -> dict[str, Any]:
    """The repository as ``--json`` shows it."""
    keys = repository.identity.keys
    return {
        "url": repository.store.url,
        "id": repository.identity.id,
        "fingerprint": repository.identity.fingerprint,
        "sealed": keys is not None,
        "recipients": list(keys.recipients) if keys else [],
        "passphrase": bool(keys and keys.passphrase),
    }
