"""Objects of a directory tree in the order of their keys.

The order of keys is not the order in which a tree is usually walked: ``a-b`` comes before
``a/b`` although ``a`` comes before ``a-b``, because ``-`` sorts before ``/``. Sorting each
directory's names with a ``/`` after those of directories gives exactly the order of keys.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from pgkeep.errors import StoreError
from pgkeep.storage._root import Root
from pgkeep.storage.interface import check_key

# What mkfs makes in the top directory of ext4, readable for root alone.
LOST_AND_FOUND = "lost+found/"


def list_objects(
    root: Root, prefix: str, *, start_after: str | None
) -> Iterator[tuple[str, os.stat_result]]:
    """Key and facts of each object whose key starts with ``prefix`` and is after ``start_after``.

    What is deleted meanwhile may or may not appear. Anything that cannot be read is an error:
    a listing that is silently short would look like backups that do not exist.
    """
    *parts, _ = prefix.split("/")
    if not all(is_legal(part) for part in parts):
        return
    with root.directory(parts) as directory:
        if directory is not None:
            base = "".join(f"{part}/" for part in parts)
            yield from _walk(root, directory, base, prefix=prefix, after=start_after or "")


def _walk(
    root: Root, directory: int, base: str, *, prefix: str, after: str
) -> Iterator[tuple[str, os.stat_result]]:
    for name in _sorted_names(root, directory):
        path = base + name
        if not path.startswith(prefix) and not (name[-1] == "/" and prefix.startswith(path)):
            continue
        if name[-1] == "/":
            if (path > after or after.startswith(path)) and path != LOST_AND_FOUND:
                yield from _enter(root, directory, path, prefix=prefix, after=after)
        elif path > after:
            found = _facts(directory, name)
            if found is not None:
                yield path, found


def _enter(
    root: Root, directory: int, path: str, *, prefix: str, after: str
) -> Iterator[tuple[str, os.stat_result]]:
    name = path[:-1].rpartition("/")[2]
    with root.subdirectory(directory, name) as child:
        if child is not None:
            yield from _walk(root, child, path, prefix=prefix, after=after)


def _sorted_names(root: Root, directory: int) -> list[str]:
    names = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if not is_legal(entry.name):
                continue
            if entry.is_symlink():
                root.refuse_link(directory, entry.name)
            names.append(f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name)
    names.sort()
    return names


def _facts(directory: int, name: str) -> os.stat_result | None:
    try:
        found = os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def is_legal(part: str) -> bool:
    """Whether a key can have such a part between two slashes."""
    try:
        check_key(part)
    except StoreError:
        return False
    return True
