"""A directory on an SFTP server as a store, for ``sftp://user@host/path`` repositories.

It keeps the promises of a local directory (see ``local``) as far as the server lets it:

* A put returns when file, name and every directory above are durable, with OpenSSH's server; with
  another one as far as that can (see ``_sftp_sync``), and ``capabilities`` says whether.
* An object is visible whole or not at all, and created only if it is absent, in one step, with
  hard links (see ``_sftp_publish``).
* "Not found" is said only while the repository's own directory is seen (see ``_sftp_root``).

There is no compare-and-swap: the protocol has no locks and tells no version of a file. A lock
that is a directory would do among the living, and stay for ever when its holder dies.

Importing this raises ``ConfigError`` where the library that it needs is not installed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pgkeep.errors import ObjectExists, PreconditionFailed, StoreError
from pgkeep.storage._sftp_deleting import delete_objects
from pgkeep.storage._sftp_publish import Temporary, sweep, temporary
from pgkeep.storage._sftp_reading import SftpReader, checked, etag_of
from pgkeep.storage._sftp_session import Session
from pgkeep.storage._sftp_trial import try_out
from pgkeep.storage.interface import Buffer, Capabilities, check_key, views_of

_DELETED_AT_ONCE = 64


def open_sftp(
    url: str,
    *,
    key_file: str | None = None,
    known_hosts: str | None = None,
    password: str | None = None,
    create: bool = False,
) -> SftpStore:
    """The store at ``url``; see :class:`SftpStore`."""
    return SftpStore(
        url, key_file=key_file, known_hosts=known_hosts, password=password, create=create
    )


class SftpStore(SftpReader):
    """Objects as files below the path of ``url``, which is ``sftp://user@host[:port]/path``.

    ``key_file`` is a private key; without it, the SSH agent's and the usual ones in ``~/.ssh``
    are tried, then ``password``, a secret. ``known_hosts`` is the file of believed host keys;
    without it, the user's and the system's. With ``create`` the directory is made if it is
    missing. Without, one that is missing or empty raises ``StoreUnavailable``.

    Raises ``ConfigError``, ``StoreDenied`` for a host key that is not known, ``StoreUnavailable``.
    """

    _capabilities: Capabilities | None = None
    _swept = False

    @property
    def capabilities(self) -> Capabilities:
        """Found out at the first look, with small files in a directory of our own."""
        if self._capabilities is None:
            self._capabilities = self._run(
                lambda session: try_out(session, self._root), "try out", ""
            )
        return self._capabilities

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """See :meth:`Store.put`. Buffers are sent as they are, without joining them."""
        check_key(key)
        views = views_of(data)

        async def store(session: Session) -> str:
            if if_absent and await self._look(session, key) is not None:
                raise await self._exists(session, key)
            async with temporary(session, self._root) as file:
                await file.write(key, views)
                if not if_absent:
                    await file.replace(key)
                elif not await file.create(key):
                    raise await self._exists(session, key)
                await self._settle(session, key)
                await self._sweep_once(session, file)
            return etag_of(file.facts)

        return self._run(store, "store", key)

    def replace(self, key: str, data: Buffer, *, etag: str) -> str:
        """Never done, see above. Raises what :meth:`Store.replace` does, or ``StoreError``."""
        if self.head(key).etag != etag:
            raise PreconditionFailed(
                f"The object {key} in {self.url} was not replaced.",
                why="Somebody else replaced it first.",
                key=key,
            )
        raise StoreError(
            f"The object {key} in {self.url} was not replaced.",
            why="Over SFTP nobody can make sure that nobody else replaces it at the same time.",
            remedy="Use another kind of store for what needs that.",
            key=key,
        )

    def delete(self, keys: Iterable[str]) -> Mapping[str, StoreError | None]:
        """See :meth:`Store.delete`. Each directory is synced once; empty ones are removed."""
        results: dict[str, StoreError | None] = {key: checked(key) for key in keys}
        legal = [key for key, problem in results.items() if problem is None]
        for start in range(0, len(legal), _DELETED_AT_ONCE):
            some = legal[start : start + _DELETED_AT_ONCE]
            try:
                results.update(self._delete(some))
            except StoreError as error:
                results.update(dict.fromkeys(some, error))
        return results

    def _delete(self, keys: Sequence[str]) -> Mapping[str, StoreError | None]:
        return self._run(
            lambda session: delete_objects(session, self._root, keys), "delete from", ""
        )

    async def _settle(self, session: Session, key: str) -> None:
        """Make the name of an object durable that just got it."""
        await self._root.syncing.name(
            session, self._root.path_of(key), directories=self._root.directories_of(key)
        )

    async def _exists(self, session: Session, key: str) -> ObjectExists:
        """That it exists is a promise as well: it is durable before it is said."""
        await self._root.syncing.existing(
            session, self._root.path_of(key), directories=self._root.directories_of(key)
        )
        return ObjectExists(f"There is an object {key} in {self.url} already.", key=key)

    async def _sweep_once(self, session: Session, file: Temporary) -> None:
        if not self._swept:
            self._swept = True
            await sweep(session, self._root, now=file.facts.mtime or 0, but=file.name)
