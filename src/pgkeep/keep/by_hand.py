"""What a person decides on single backups: delete, undelete, hold, release."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pgkeep.errors import BackupKept, NoSuchBackup
from pgkeep.keep.look import Look, look
from pgkeep.repository.catalogue import stored_manifests
from pgkeep.repository.holds import HOLD, RELEASE, publish_hold, read_holds
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.trash import TRASH, UNDELETE, Trash, give_word, read_trash
from pgkeep.units import to_utc_text


def delete(
    repository: Repository,
    layout: Layout,
    backups: Sequence[str],
    *,
    reason: str,
    by: Mapping[str, Any],
    dry_run: bool = False,
) -> list[str]:
    """Put backups into the trash; returns those that were not there yet.

    A backup that cannot be read may be deleted, too. Raises ``NoSuchBackup``, and ``BackupKept``
    for one that is held, and when no good backup would be left; then nothing was changed.
    """
    at = _now()
    seen = look(repository, layout, now=datetime.now(UTC))
    _check_known(seen.manifests, backups)
    for backup in backups:
        hold = seen.holds.held.get(backup)
        if hold is not None:
            raise BackupKept(
                f"The backup {backup} is held, and was not deleted.",
                why=f"{hold.reason}." if hold.reason else None,
                remedy=f"pgkeep release {backup} ends that.",
                backup=backup,
            )

    def fresh(trash: Trash) -> list[str]:
        _check_good_left(seen, backups, trash)
        return [backup for backup in backups if not trash.is_out(backup)]

    if dry_run:
        return fresh(seen.trash)
    return give_word(repository.store, layout, TRASH, fresh, reason=reason, at=at, by=by)


def undelete(
    repository: Repository, layout: Layout, backups: Sequence[str], *, by: Mapping[str, Any]
) -> list[str]:
    """Take backups out of the trash; returns those that were in it.

    Raises ``NoSuchBackup`` for one that is not there (any more), and for one whose bytes are being
    deleted: then nothing was changed.
    """
    store = repository.store
    _check_known(stored_manifests(store, layout), backups)

    def fresh(trash: Trash) -> list[str]:
        for backup in backups:
            if trash.is_going(backup):
                raise NoSuchBackup(
                    f"The backup {backup} cannot be brought back.",
                    why="Its time in the trash was over, and it is being deleted.",
                    remedy="pgkeep list shows what there is.",
                    backup=backup,
                )
        return [backup for backup in backups if trash.is_in_trash(backup)]

    return give_word(store, layout, UNDELETE, fresh, reason="by hand", at=_now(), by=by)


def hold(
    repository: Repository,
    layout: Layout,
    backups: Sequence[str],
    *,
    reason: str,
    by: Mapping[str, Any],
) -> None:
    """Keep backups until they are released. Raises ``NoSuchBackup``, for one in the trash, too."""
    _check_known(stored_manifests(repository.store, layout), backups)
    before = read_trash(repository.store, layout, strict=True)
    for backup in backups:
        if before.is_out(backup):
            raise NoSuchBackup(
                f"The backup {backup} is in the trash.",
                remedy=f"Bring it back first: pgkeep undelete {backup}",
                backup=backup,
            )
    # One that is thrown away in this very moment is not deleted, and the next expiry brings it
    # back: what is in the trash is not going yet.
    publish_hold(repository.store, layout, HOLD, backups, reason=reason, at=_now(), by=by)


def release(
    repository: Repository, layout: Layout, backups: Sequence[str], *, by: Mapping[str, Any]
) -> list[str]:
    """End the hold of backups; returns those that were held. Raises ``NoSuchBackup``."""
    _check_known(stored_manifests(repository.store, layout), backups)
    held = read_holds(repository.store, layout).held
    ended = [backup for backup in backups if backup in held]
    publish_hold(repository.store, layout, RELEASE, ended, reason="", at=_now(), by=by)
    return ended


def _check_good_left(seen: Look, backups: Collection[str], trash: Trash) -> None:
    """The last good backup of a system is never thrown away, by two at once neither."""
    good = [one.id for one in seen.candidates() if one.is_good]
    if good and all(backup in backups or trash.is_out(backup) for backup in good):
        raise BackupKept(
            f"{', '.join(sorted(set(good) & set(backups)))} cannot be deleted: no good backup of "
            "the cluster would be left.",
            remedy="Make another backup first. To give the cluster up altogether, remove its "
            "folder from the repository.",
        )


def _check_known(known: Collection[str], backups: Sequence[str]) -> None:
    for backup in backups:
        if backup not in known:
            raise NoSuchBackup(
                f"There is no backup {backup!r} in the repository.",
                remedy="pgkeep list --deleted shows what there is, the trash included.",
                backup=backup,
            )


def _now() -> str:
    return to_utc_text(datetime.now(UTC))
