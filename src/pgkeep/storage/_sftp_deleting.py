"""Deleting many objects on the server, with a result for each."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from pgkeep.errors import StoreError
from pgkeep.storage._sftp_library import asyncssh
from pgkeep.storage._sftp_problems import FAILURES, ends_session, sftp_problem
from pgkeep.storage._sftp_publish import problem_of
from pgkeep.storage._sftp_root import Root, is_directory, is_link
from pgkeep.storage._sftp_session import Session
from pgkeep.storage._sftp_transfer import patiently


async def delete_objects(
    session: Session, root: Root, keys: Sequence[str]
) -> Mapping[str, StoreError | None]:
    """Ask for all at once; then sync each directory once and remove it if it is empty.

    Raises nothing for the server's sake, also when the session ends on the way.
    """
    outcomes = await asyncio.gather(
        *(_remove(session, root, key) for key in keys), return_exceptions=True
    )
    results: dict[str, StoreError | None] = {}
    touched: dict[bytes, list[str]] = {}
    if any(outcome is not None and ends_session(outcome) for outcome in outcomes):
        session.abort()
    for key, outcome in zip(keys, outcomes, strict=True):
        results[key] = None if outcome is None else _in_our_words(outcome, root, key)
        if outcome is None:
            touched.setdefault(root.directories_of(key)[0], []).append(key)
    for gone in touched.values():
        try:
            await _settle(session, root, gone[0])
        except (StoreError, *FAILURES) as error:
            results.update({key: _in_our_words(error, root, key) for key in gone})
    return results


async def _remove(session: Session, root: Root, key: str) -> None:
    path = root.path_of(key)
    try:
        await patiently(session.client.remove(path))
    except asyncssh.SFTPNoSuchFile:
        await root.check(session)
    except asyncssh.SFTPError as error:
        if ends_session(error):
            raise
        found = await session.lstat(path)
        if found is None or is_directory(found):
            await root.check(session)  # a directory is no object
            return
        if is_link(found):
            raise root.refuse_link(key) from None
        raise await problem_of(error, session, root, doing="delete", key=key) from error


async def _settle(session: Session, root: Root, key: str) -> None:
    """Make it last that the object is gone. An empty directory does no harm, and goes."""
    directories = root.directories_of(key)
    await root.syncing.directory(session, directories[0])
    for directory in directories[:-1]:
        try:
            await patiently(session.client.rmdir(directory))
        except asyncssh.SFTPError as error:
            if ends_session(error):
                raise
            return  # in use again, or removed by another


def _in_our_words(error: BaseException, root: Root, key: str) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, FAILURES):
        return sftp_problem(error, root.address, doing="delete", path=root.show(key))
    raise error
