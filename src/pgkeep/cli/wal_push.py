"""``wal-push %p``: what is done in which order, and imported only when it is needed.

The file is opened before the settings are read. Compression and encryption come in only when
there is something to store, which a file that was pushed ahead has not.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from pgkeep.archive.source import WalSource
from pgkeep.postgres.wal_name import WalKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pgkeep.archive.ahead import AheadRecords
    from pgkeep.archive.cluster import LocalCluster
    from pgkeep.archive.patience import Patience
    from pgkeep.archive.push import Pushed, PushTarget
    from pgkeep.cli.wal import Options
    from pgkeep.cli.wal_everywhere import Everywhere
    from pgkeep.config import Settings
    from pgkeep.repository.identity import Repository
    from pgkeep.storage.interface import Store

RETRY_SECONDS = 10.0
# After so long for one file, the store is busy enough.
_LATEST_AHEAD_SECONDS = 2.0


def push(options: Options) -> None:
    """Make the file durable in the repository, then perhaps others that wait."""
    path = options.files[0]
    with WalSource(path) as source:
        from pgkeep.archive.cluster import find_data_directory, read_cluster, refuse_copy
        from pgkeep.cli.wal_session import become_owner_of, read_settings, state_of

        settings = read_settings(options)
        pgdata = find_data_directory(path, configured=settings.pgdata)
        become_owner_of(pgdata)
        refuse_copy(pgdata)
        cluster = read_cluster(pgdata)
        source.check(
            system_identifier=cluster.system_identifier,
            segment_size=cluster.segment_size,
            any_magic=settings.force_version is not None,
        )
        state = state_of(settings, pgdata)
        _Push(options, source, settings=settings, cluster=cluster, state=state).run()


class _Push:
    """One run: what all its steps need."""

    def __init__(
        self,
        options: Options,
        source: WalSource,
        *,
        settings: Settings,
        cluster: LocalCluster,
        state: Path,
    ) -> None:
        self._options = options
        self._source = source
        self._settings = settings
        self._cluster = cluster
        self._state = state
        self._is_new = False
        """Whether the repository did not have the file that was asked for, nor another's of its
        name."""

    def run(self) -> None:
        """Push with retries; then work ahead, which can fail nothing any more."""
        from pgkeep.archive.patience import Patience

        if self._was_just_ahead():
            self._say_ahead()
            return
        patience = Patience(
            RETRY_SECONDS, started=self._options.started, give_up=self._server_stops
        )
        if self._settings.mirrors:
            everywhere = self._push_everywhere()
            if everywhere is None:
                return
            target = next(iter(everywhere.targets.values()))
            push_one: Callable[[WalSource], object] = everywhere.push_ahead
        else:
            found = patience.run(self._attempt)
            if found is None:
                return
            target = found
            push_one = partial(self._push_one, target=target)
        try:
            self._push_ahead(target, patience, push_one)
        except Exception as error:  # the file that was asked for is durable, whatever this is
            self._say(f"no work ahead: {error}")

    def _push_everywhere(self) -> Everywhere | None:
        """None when the file turns out to have been pushed ahead."""
        from pgkeep.cli.wal_everywhere import Everywhere

        name = self._source.name.name
        if self._was_ahead_anywhere():
            self._say_ahead()
            return None
        run = Everywhere(
            self._settings,
            self._state,
            make_target=self._target,
            histories=self._histories,
            started=self._options.started,
            seconds=RETRY_SECONDS,
            give_up=self._server_stops,
        )
        run.push(self._source)
        self._say(f"{name} is in {len(run.targets)} repositories: {', '.join(run.targets)}")
        return run

    def _was_ahead_anywhere(self) -> bool:
        """As ``_was_ahead``, asked of the first repository that answers: a record is of all."""
        from pgkeep.cli.wal_session import open_store_of
        from pgkeep.errors import StoreError

        for settings in (self._settings, *self._settings.mirrors.values()):
            try:
                return self._was_ahead(open_store_of(settings))
            except StoreError as error:
                del error
        return False

    def _attempt(self) -> PushTarget | None:
        """None when the file turns out to have been pushed ahead."""
        from pgkeep.cli.wal_session import open_store_of

        name = self._source.name.name
        store = open_store_of(self._settings)
        if self._was_ahead(store):
            self._say_ahead()
            return None
        from pgkeep.cli.wal_session import ask_ahead, open_to_write

        store = ask_ahead(store, self._settings, cluster=self._settings.cluster)
        target = self._target(open_to_write(store, self._settings, self._state))
        pushed = self._push_one(self._source, target)
        self._is_new = pushed.stored_bytes > 0
        stored = f"is stored in {pushed.stored_bytes} bytes"
        self._say(f"{name} {stored if pushed.stored_bytes else 'was there already'}")
        return target

    def _push_one(self, source: WalSource, target: PushTarget) -> Pushed:
        from pgkeep.archive.push import push_file, push_history_first

        place = target.repository.store.url
        known = self._records(target.repository.identity.id, [place], folder="histories")
        push_history_first(source, target, known)
        return push_file(source, target)

    def _target(self, repository: Repository) -> PushTarget:
        from os import uname

        from pgkeep.archive.push import open_target

        return open_target(
            repository,
            self._cluster,
            name=self._settings.cluster,
            host=uname().nodename,
            level=self._settings.level,
            any_magic=self._settings.force_version is not None,
        )

    def _was_just_ahead(self) -> bool:
        """Whether this very file was pushed ahead within the last minute: asks nobody."""
        return any(
            self._records(repository_id, self._places()).has_just_now(self._source.mark)
            for repository_id in self._recorded_repositories()
        )

    def _was_ahead(self, store: Store) -> bool:
        """Whether this very file was pushed ahead into the repository that is there now.

        The repository's record is read again for that, since another one may have been put in
        its place. Only that is asked of the store.
        """
        if not self._recorded_repositories():
            return False
        from pgkeep.errors import NoRepository
        from pgkeep.repository.identity import read_repository_id

        try:
            repository_id = read_repository_id(store)
        except NoRepository:
            return False
        return self._records(repository_id, self._places()).has(self._source.mark)

    def _recorded_repositories(self) -> list[str]:
        """Those for which a file of this name is recorded."""
        name, cluster = self._source.name.name, self._settings.cluster
        return [path.parts[-4] for path in (self._state / "ahead").glob(f"*/{cluster}/*/{name}")]

    def _push_ahead(
        self, target: PushTarget, patience: Patience, push_one: Callable[[WalSource], object]
    ) -> None:
        from pgkeep.archive.ahead import push_ahead, ready_names

        ready = ready_names(self._cluster.pgdata)
        records = self._records(target.repository.identity.id, self._places())
        records.sweep(ready)
        others = [name for name in ready if name != self._source.name.name]
        if not others or patience.elapsed > _LATEST_AHEAD_SECONDS:
            return
        done = push_ahead(
            others,
            push_one,
            pgdata=self._cluster.pgdata,
            records=records,
            segment_size=self._cluster.segment_size,
            elapsed=lambda: patience.elapsed,
            first_alone=not self._is_new or self._source.name.kind is not WalKind.SEGMENT,
            stop=self._server_stops,
        )
        self._say(f"{done} files pushed ahead")

    def _histories(self, name: str, repository: Repository) -> AheadRecords:
        """What one of several is known to have, by its name: it may have none of another's."""
        place = repository.store.url
        return self._records(repository.identity.id, [place], folder=f"histories-{name}")

    def _places(self) -> list[str]:
        """Where what is pushed ahead is, when it is done: in so many of these."""
        from pgkeep.config.mirrors import copies_wanted

        settings = self._settings
        urls = [str(one.repo) for one in (settings, *settings.mirrors.values())]
        return [str(copies_wanted(settings)), *urls]

    def _records(
        self, repository_id: str, places: Sequence[str], *, folder: str = "ahead"
    ) -> AheadRecords:
        from pgkeep.archive.ahead import AheadRecords

        return AheadRecords.of(
            self._state / folder,
            repository_id=repository_id,
            cluster=self._settings.cluster,
            system_identifier=self._cluster.system_identifier,
            places=places,
        )

    def _say_ahead(self) -> None:
        self._say(f"{self._source.name.name} was pushed ahead of this call")

    def _say(self, text: str) -> None:
        from pgkeep.cli.wal_session import say

        say(self._options, text)

    def _server_stops(self) -> bool:
        from pgkeep.archive.cluster import is_stopping

        return is_stopping(self._cluster.pgdata)
