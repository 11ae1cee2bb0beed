"""The directory that a cluster is restored into: whether it may be used, and whose it will be.

Nothing here changes anything but :func:`make_directories`. As root, what is restored must belong
to somebody else, for PostgreSQL does not run as root; whoever owns an empty directory that
stands there already, or the one above it, is who is meant.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from pgkeep.errors import DirectoryNotEmpty, LocalIOError, UsageError
from pgkeep.postgres.exclusions import WAL_DIRECTORY
from pgkeep.repository.manifest import Manifest
from pgkeep.restore.plan import Owner, PlacedTablespace
from pgkeep.restore.syncing import unwritable
from pgkeep.units import format_size

UNFINISHED_CONTROL = "global/pg_control.pgkeep-unfinished"


def check_empty(path: Path) -> None:
    """Raise ``DirectoryNotEmpty`` unless there is nothing at ``path``, or an empty directory."""
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise DirectoryNotEmpty(
            f"{path} is not a directory.", remedy="Name a directory that does not exist yet."
        ) from error
    except OSError as error:
        raise unwritable(path, error) from error
    if not names:
        return
    why = f"It holds {len(names)} entries, {names[0]!r} among them."
    if Path(path, UNFINISHED_CONTROL).exists() or "pgkeep.unfinished" in names:
        why = (
            "It holds a restore that was broken off: no server starts from it. It began where "
            "something stood already, so --delta must be given to go on."
        )
    raise DirectoryNotEmpty(
        f"{path} is not empty, and was left as it is.",
        why=why,
        remedy="Restore into a new directory, or remove what is there if nobody needs it. If it is "
        "this cluster's own directory, --delta restores over it.",
        path=path,
    )


def find_owner(into: Path, wanted: str | None) -> Owner:
    """Whose the restored cluster will be.

    As an ordinary user: that user's. As root: who was named; else who owns the existing directory,
    the one above it, or the user ``postgres``, whichever comes first and is not root.
    Raises ``LocalIOError`` when only root is left, ``UsageError`` for an unknown name.
    """
    uid = os.geteuid()
    if uid != 0:
        if wanted is not None and _named(wanted).uid != uid:
            raise UsageError(
                f"Only root can give files to {wanted}.", remedy="Leave --owner out, or use root."
            )
        return Owner(uid, os.getegid(), _name_of(uid), change=False)
    if wanted is not None:
        return _not_root(_named(wanted), into)
    for place in (into, into.parent):
        try:
            found = place.stat()
        except OSError:
            continue
        if found.st_uid != 0:
            return Owner(found.st_uid, found.st_gid, _name_of(found.st_uid), change=True)
    try:
        return _named("postgres")
    except UsageError:
        return _not_root(Owner(0, 0, "root", change=False), into)


def supplementary_groups(owner: Owner) -> list[int]:
    """All groups of the owner, for a process that is to run as he does."""
    try:
        return os.getgrouplist(pwd.getpwuid(owner.uid).pw_name, owner.gid)
    except KeyError:
        return [owner.gid]


def free_bytes(path: Path) -> int:
    """What an ordinary user can still write where ``path`` is or will be.

    Raises ``LocalIOError``.
    """
    place = _nearest(path)
    try:
        found = os.statvfs(place)
    except OSError as error:
        raise unwritable(place, error) from error
    return found.f_bavail * found.f_frsize


def device_of(path: Path) -> int:
    """The file system on which ``path`` is or will be. Raises ``LocalIOError``."""
    place = _nearest(path)
    try:
        return place.stat().st_dev
    except OSError as error:
        raise unwritable(place, error) from error


def check_free(path: Path, needed: int, *, exactly: Callable[[], int] | None = None) -> None:
    """Raise ``LocalIOError`` when there is less room than the restore will write.

    Where ``needed`` may be too high, ``exactly`` finds out, and is called only if that matters.
    """
    free = free_bytes(path)
    if free < needed and exactly is not None:
        needed = exactly()
    if free >= needed:
        return
    raise LocalIOError(
        f"There is not enough room for {path}: {format_size(needed)} are needed, "
        f"{format_size(free)} are free.",
        remedy="Make room, or restore to another file system.",
        needed=needed,
        free=free,
    )


class Maker:
    """Makes directories for the owner, and remembers them to be synced at the end."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self.made: list[Path] = []

    def root(self, path: Path) -> None:
        """A directory that may stand there already, empty; 0700 and the owner's afterwards."""
        try:
            missing = [p for p in (path, *path.parents) if not p.exists()]
            for parent in reversed(missing):
                parent.mkdir(0o700 if parent == path else 0o755)
                self.made += [parent, parent.parent]
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                self.own(handle)
                os.fchmod(handle, 0o700)
            finally:
                os.close(handle)
        except OSError as error:
            raise unwritable(path, error) from error
        self.made += [path, path.parent]

    def directory(self, path: Path, mode: int) -> None:
        """A directory below one of ours."""
        try:
            path.mkdir(mode, exist_ok=True)
            # WAL may lie on a disk of its own in a directory that is restored over.
            follow = 0 if path.name == WAL_DIRECTORY else os.O_NOFOLLOW
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | follow)
            try:
                self.own(handle)
                os.fchmod(handle, mode & 0o777)
            finally:
                os.close(handle)
        except OSError as error:
            raise unwritable(path, error) from error
        self.made.append(path)

    def link(self, path: Path, target: Path) -> None:
        """A link, the owner's; one that is there leads to the same place."""
        try:
            if not path.is_symlink():
                path.symlink_to(target)
            if self._owner.change:
                os.lchown(path, self._owner.uid, self._owner.gid)
        except OSError as error:
            raise unwritable(path, error) from error

    def remove(self, path: Path) -> None:
        """Take back a directory, with all that lies in it."""
        shutil.rmtree(path, ignore_errors=True)
        self.made = [made for made in self.made if not made.is_relative_to(path)]

    def own(self, handle: int) -> None:
        """Give an open file to the owner."""
        if self._owner.change:
            os.fchown(handle, self._owner.uid, self._owner.gid)

    def sync(self) -> None:
        """Make all names in all directories durable."""
        for path in dict.fromkeys(self.made):
            sync_directory(path)


def sync_directory(path: Path) -> None:
    """fsync a directory. Raises ``LocalIOError``."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error


def make_directories(
    maker: Maker, into: Path, manifest: Manifest, tablespaces: Sequence[PlacedTablespace]
) -> None:
    """All directories of the backup, and the links to tablespaces; those that are there stay.

    Raises ``LocalIOError``.
    """
    links = {f"pg_tblspc/{space.oid}": space for space in tablespaces}
    directories = manifest.directories()
    inside = [d for d in directories if "/".join(d[0].split("/")[:2]) not in links]
    for path, mode in inside:
        maker.directory(into / path, mode)
    for name, space in links.items():
        maker.root(space.location)
        maker.link(into / name, space.location)
    for path, mode in directories:
        if (path, mode) not in inside and path not in links:
            maker.directory(into / path, mode)


def _nearest(path: Path) -> Path:
    """The path itself, or what of the way to it exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _named(name: str) -> Owner:
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise UsageError(
            f"There is no user {name!r} on this machine.", remedy="Name the server's user."
        ) from error
    return Owner(entry.pw_uid, entry.pw_gid, name, change=True)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _not_root(owner: Owner, into: Path) -> Owner:
    if owner.uid != 0:
        return owner
    raise LocalIOError(
        f"What is restored into {into} would belong to root.",
        why="PostgreSQL does not run as root.",
        remedy="Name the server's user with --owner, or make the directory first and give it "
        "to that user.",
    )
