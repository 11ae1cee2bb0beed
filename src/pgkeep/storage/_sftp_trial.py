"""What a server can do, found out by doing it."""

from __future__ import annotations

from contextlib import suppress

from pgkeep.errors import StoreError
from pgkeep.storage._publish import new_name
from pgkeep.storage._sftp_library import asyncssh
from pgkeep.storage._sftp_publish import Temporary, temporary
from pgkeep.storage._sftp_root import Root
from pgkeep.storage._sftp_session import Session
from pgkeep.storage._sftp_transfer import patiently
from pgkeep.storage.interface import Capabilities


async def try_out(session: Session, root: Root) -> Capabilities:
    """Create twice, sync a file and a directory, all under names that are swept.

    Raises ``StoreError`` if names differing in case are one to the server's file system: keys
    are told apart by case.
    """
    async with temporary(session, root) as first, temporary(session, root) as second:
        directory, _, name = first.name.rpartition(b"/")
        if await session.lstat(directory + b"/" + name.upper()) is not None:
            raise StoreError(
                f"The file system of {root.url} does not tell capital from small letters.",
                remedy="Keep the repository in a file system that does.",
            )
        await first.write("", [])
        await root.syncing.try_out(session)
        return Capabilities(
            conditional_create=await _only_one_creates(session, root, first, second),
            compare_and_swap=False,
            durable=root.syncing.can_promise,
        )


async def _only_one_creates(
    session: Session, root: Root, first: Temporary, second: Temporary
) -> bool:
    name = root.temporary + b"/" + new_name().encode()
    try:
        await first.link(name)
        await second.link(name)
    except asyncssh.SFTPFailure:
        # A rename was refused as well, if it came to that; but not in one step.
        return root.can_link
    finally:
        with suppress(asyncssh.SFTPError):
            await patiently(session.client.remove(name))
    return False
