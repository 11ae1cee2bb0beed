"""Restoring some databases and leaving others out.

A cluster has one WAL, which writes to all databases, so what is left out cannot simply be missing.
Its files are made with the size that they have in the backup and no content: they take no room, and
recovery writes into them what WAL has for them. What there is then is no database: its catalogue is
empty, nobody can connect to it, and it is there only to be dropped. ``PG_VERSION`` is restored all
the same, for the server looks at it first.

The names are those that the databases had when they were backed up. One that was made later comes
out of WAL, whole, whatever was asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from pgkeep.errors import UsageError
from pgkeep.postgres.relation import database_of
from pgkeep.repository.manifest import OUTSIDE, FileRow, Manifest

if TYPE_CHECKING:
    from pgkeep.restore.plan import RestoreOptions

_VERSION_FILE = "PG_VERSION"
_TEMPLATES = ("template0", "template1")


class Database(NamedTuple):
    """A database of a backup. ``name`` is its OID where the backup does not say it; ``kept``
    says why it is always restored, and is empty otherwise."""

    oid: int
    name: str
    size_bytes: int
    kept: str = ""


class Selection(NamedTuple):
    """Of the databases of a backup, which are restored and which are left out."""

    restored: tuple[Database, ...]
    left_out: tuple[Database, ...]

    @property
    def left_out_bytes(self) -> int:
        return sum(one.size_bytes for one in self.left_out)


def refuse_selection(options: RestoreOptions, *, over: bool) -> None:
    """Raise ``UsageError`` where leaving databases out makes no sense, or does harm."""
    if not options.selective:
        return
    if options.standby is not None:
        raise UsageError(
            "A standby holds all databases.",
            why="It replays what its primary does to each of them, for as long as it lives.",
            remedy="Leave --only-database and --exclude-database out, or --standby.",
        )
    if options.continue_archiving:
        raise UsageError(
            "A cluster whose databases are not all there does not take the original's place.",
            why="It would go on archiving, and its next backup would hold databases without "
            "content.",
            remedy="Leave --continue-archiving out: drop in the copy what was left out, and make "
            "it the original then, with the commands that the restore prints.",
        )
    if over:
        raise UsageError(
            f"No database is left out over {options.into}, where a cluster stands.",
            why="The databases that are not restored would be emptied, since all share one WAL: "
            "a single one cannot be taken back.",
            remedy="Restore into a new directory, start it there, and bring the database over with "
            "pg_dump.",
        )


def choose_databases(
    manifest: Manifest, server: Mapping[str, Any], options: RestoreOptions
) -> Selection | None:
    """What the options mean for this backup; None where all databases are restored.

    Raises ``UsageError``.
    """
    if not options.selective:
        return None
    return choose(
        manifest.files(), server, only=options.only_databases, exclude=options.exclude_databases
    )


def choose(
    files: Iterable[FileRow],
    server: Mapping[str, Any],
    *,
    only: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Selection:
    """Decide on each database of a backup. ``server`` are the facts that its manifest has.

    Templates are always restored (new databases are made from them), with ``only`` also
    ``postgres``, which is where one connects to, and whatever has no name. ``only`` and ``exclude``
    hold names or OIDs; the second is stronger. Raises ``UsageError``.
    """
    databases = _databases(files, server)
    if only and not isinstance(server.get("databases"), list):
        raise UsageError(
            "This backup does not say how its databases are called.",
            remedy="Leave some out by their OIDs: --exclude-database 16384. It has: "
            f"{', '.join(one.name for one in databases)}.",
        )
    wanted = [_find(databases, name, "--only-database") for name in only]
    unwanted = [_find(databases, name, "--exclude-database") for name in exclude]
    for one in unwanted:
        if one in wanted:
            raise UsageError(
                f"The database {one.name!r} is both to be restored and to be left out.",
                remedy="Leave one of --only-database and --exclude-database out.",
            )
        if one.kept:
            raise UsageError(
                f"The database {one.name!r} cannot be left out: {one.kept}.",
                remedy="Leave out others; templates are small.",
            )
    left_out = []
    for one in databases:
        needed = one.kept or one in wanted or one.name == "postgres" or one.name == str(one.oid)
        if one in unwanted or (wanted and not needed):
            left_out.append(one)
    return Selection(tuple(one for one in databases if one not in left_out), tuple(left_out))


def is_blank(file: FileRow, left_out: frozenset[int]) -> bool:
    """Whether a file belongs to one of these databases and is made without content."""
    if file.area == OUTSIDE or database_of(file.path) not in left_out:
        return False
    return file.path.rpartition("/")[2] != _VERSION_FILE


def _databases(files: Iterable[FileRow], server: Mapping[str, Any]) -> list[Database]:
    """All that have files in the backup, by name."""
    sizes: dict[int, int] = {}
    for file in files:
        oid = None if file.area == OUTSIDE else database_of(file.path)
        if oid is not None:
            sizes[oid] = sizes.get(oid, 0) + file.size_bytes
    known = server.get("databases")
    facts = {
        one["oid"]: one
        for one in (known if isinstance(known, list) else [])
        if isinstance(one, dict) and isinstance(one.get("oid"), int)
    }
    found = []
    for oid, size in sizes.items():
        fact = facts.get(oid, {})
        name = str(fact.get("name", oid))
        template = fact.get("is_template") or name in _TEMPLATES
        kept = "it is a template, from which databases are made" if template else ""
        found.append(Database(oid, name, size, kept))
    return sorted(found, key=lambda one: one.name)


def _find(databases: Sequence[Database], wanted: str, option: str) -> Database:
    for one in databases:
        if one.name == wanted:
            return one
    for one in databases:
        if str(one.oid) == wanted:
            return one
    names = ", ".join(one.name for one in databases)
    raise UsageError(
        f"{option} {wanted}: the backup has no such database.",
        why="It knows the names that they had then. One that was made later comes out of WAL, "
        "always whole.",
        remedy=f"It has: {names}.",
    )
