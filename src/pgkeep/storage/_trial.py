"""What a file system can do, found out by doing it. Used once, by ``init``."""

from __future__ import annotations

import os

from pgkeep.errors import StoreError
from pgkeep.storage._publish import Temporary, is_unlocked, new_name, temporary
from pgkeep.storage._root import Root, sync_directory
from pgkeep.storage.interface import Capabilities


def try_out(root: Root, file_mode: int) -> Capabilities:
    """Create twice, lock twice, sync a directory, all under names that are swept.

    Raises ``OSError``, and ``StoreError`` if names differing in case are one to this file
    system: keys are told apart by case.
    """
    with temporary(root, file_mode) as first, temporary(root, file_mode) as second:
        if _exists(first.directory, first.name.upper()):
            raise StoreError(
                f"The file system of {root.path} does not tell capital from small letters.",
                remedy="Keep the repository in a file system that does.",
            )
        return Capabilities(
            conditional_create=_only_one_creates(first, second),
            compare_and_swap=second.is_locked and not is_unlocked(second.directory, second.name),
            durable=sync_directory(second.directory),
        )


def _only_one_creates(first: Temporary, second: Temporary) -> bool:
    name = new_name()
    try:
        if not first.create(first.directory, name):
            return False
        second.create(second.directory, name)
    except FileExistsError:
        return True
    finally:
        if _exists(first.directory, name):
            os.unlink(name, dir_fd=first.directory)
    return False


def _exists(directory: int, name: str) -> bool:
    try:
        os.lstat(name, dir_fd=directory)
    except FileNotFoundError:
        return False
    return True
