"""What can be restored instead, when an object that a restore needs is gone or damaged."""

from __future__ import annotations

from pgkeep.errors import DamagedObject, ObjectNotFound, PgkeepError
from pgkeep.repository.catalogue import load_manifest, read_catalogue
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout

_LOOKED_AT = 50
_NAMED = 3


def name_alternatives(
    error: DamagedObject | ObjectNotFound, repository: Repository, layout: Layout
) -> None:
    """Add to an error of a pack which backups do not need that one, newest first.

    They may need others that are bad: only a check tells. Nothing is added where that cannot be
    found out; the error is what matters.
    """
    key = error.facts.get("object") or error.facts.get("key")
    if not isinstance(key, str) or not key.startswith(layout.packs):
        return
    try:
        found = _backups_without(key, repository, layout)
    except PgkeepError:
        return
    if found:
        text = f"Backups that do not need it: {', '.join(found)}. Name one with --backup."
    else:
        text = "Every backup that was looked at needs it."
    error.remedy = " ".join(filter(None, (error.remedy, text)))


def _backups_without(key: str, repository: Repository, layout: Layout) -> list[str]:
    found = []
    for backup in reversed(read_catalogue(repository, layout).backups[-_LOOKED_AT:]):
        manifest = load_manifest(repository, layout, backup)
        try:
            needs_it = any(info.key(layout) == key for info in manifest.packs().values())
        finally:
            manifest.close()
        if not needs_it:
            found.append(backup.id)
        if len(found) == _NAMED:
            break
    return found
