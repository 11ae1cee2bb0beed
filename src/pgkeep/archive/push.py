"""Pushing one WAL file: when this returns, the file is in the repository and durable.

Create only if absent; what is there already is compared by its salted hash, which needs no key. So
a push can be repeated at any time, by anybody who has the same bytes, and a second server under the
same name is told at its first segment.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from pgkeep.archive.source import WalSource, check_history
from pgkeep.errors import ObjectExists, ObjectNotFound
from pgkeep.postgres.wal_name import WalKind
from pgkeep.repository.layout import Layout
from pgkeep.repository.wal import build_wal_object, check_same, read_whole_header
from pgkeep.units import to_utc_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgkeep.archive.ahead import AheadRecords
    from pgkeep.archive.cluster import LocalCluster
    from pgkeep.repository.identity import Repository


class PushTarget(NamedTuple):
    """Where a cluster's WAL goes. ``level`` is zstd's; ``any_magic`` as in ``WalSource.check``."""

    repository: Repository
    cluster: LocalCluster
    layout: Layout
    host: str
    level: int = 1
    any_magic: bool = False

    def now(self) -> datetime:
        """The wall clock, which ends up in the object as information."""
        return datetime.now(UTC)


class Pushed(NamedTuple):
    """What became of a file: ``stored_bytes`` is 0 if it was there already."""

    name: str
    size: int
    stored_bytes: int


def open_target(
    repository: Repository,
    cluster: LocalCluster,
    *,
    name: str,
    host: str,
    level: int = 1,
    any_magic: bool = False,
) -> PushTarget:
    """Join an open repository with a local cluster, called ``name`` in it.

    Raises ``UnknownSystem`` when the name stands for another cluster.
    """
    from pgkeep.repository.system import check_system

    check_system(repository.store, name, cluster.system_identifier)
    layout = Layout(name, cluster.system_identifier)
    return PushTarget(repository, cluster, layout, host, level, any_magic)


def push_file(
    source: WalSource, target: PushTarget, *, clock: Callable[[], datetime] | None = None
) -> Pushed:
    """Make one file durable in the repository.

    Raises ``ForeignWal``, ``BrokenServerFile``, ``WalConflict``, ``LocalIOError``, and what the
    store raises. ``clock`` gives the moment that is recorded.
    """
    content = read_content(source, target)
    sealed = seal_content(source, content, target, clock=clock)
    return store_sealed(source.name.name, content, sealed, target)


def read_content(source: WalSource, target: PushTarget) -> Any:
    """The file's bytes, when they are what its name says. Raises as :func:`push_file`."""
    source.check(
        system_identifier=target.cluster.system_identifier,
        segment_size=target.cluster.segment_size,
        any_magic=target.any_magic,
    )
    content = source.read()
    check_history(source, content)
    return content


def seal_content(
    source: WalSource,
    content: Any,
    target: PushTarget,
    *,
    clock: Callable[[], datetime] | None = None,
) -> memoryview:
    """What is stored of it, in this repository and in all of its mirrors."""
    pushed = (clock or target.now)()
    return build_wal_object(
        target.repository.keyring,
        content,
        name=source.name.name,
        kind=source.name.kind.value,
        modified=to_utc_text(datetime.fromtimestamp(source.modified_seconds, UTC)),
        pushed=to_utc_text(pushed),
        host=target.host,
        level=target.level,
    )


def store_sealed(name: str, content: Any, sealed: memoryview, target: PushTarget) -> Pushed:
    """Make it durable in one repository. Raises ``WalConflict``, and what the store raises."""
    store, key = target.repository.store, target.layout.wal_file(name)
    for last in (False, True):
        try:
            store.put(key, sealed, if_absent=True)
            return Pushed(name, len(content), sealed.nbytes)
        except ObjectExists:
            try:
                header = read_whole_header(store, key, target.repository.keyring)
            except ObjectNotFound:
                # A store may refuse a create for another one that failed.
                if last:
                    raise
                continue
            check_same(header, content, cluster=target.layout.cluster, host=target.host)
            return Pushed(name, len(content), 0)
    raise AssertionError("unreachable")


def push_history_first(source: WalSource, target: PushTarget, known: AheadRecords) -> None:
    """Make the history of a segment's timeline durable, before the segment is.

    The server archives that file once, when the timeline begins. If archiving was off in that
    moment, as it is in a restored copy, nobody ever asks for it again, and without it nothing
    of the timeline can be restored. ``known`` remembers what was seen to be there. Raises what
    ``push_file`` raises: another history under this name is another timeline.
    """
    if source.name.timeline == 1 or source.name.kind is WalKind.HISTORY:
        return
    name = f"{source.name.timeline:08X}.history"
    path = os.path.join(target.cluster.pgdata, "pg_wal", name)  # noqa: PTH118
    if not os.path.exists(path):  # noqa: PTH110
        return
    with WalSource(path) as history:
        if not known.has(history.mark):
            push_file(history, target)
            known.note(history.mark)
