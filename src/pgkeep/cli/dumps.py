"""What the dump commands share: the repository to write to, the dumps that there are, which are
meant."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.cli.session import open_host_state, open_repo, open_store, unlock_of
from pgkeep.cli.systems import system_layout
from pgkeep.repository.identity import open_repository
from pgkeep.repository.start import ask_for_start

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.cli.members import Members
    from pgkeep.repository.dumps import Dumps, StoredDump
    from pgkeep.repository.identity import Repository
    from pgkeep.repository.layout import Layout
    from pgkeep.storage.fanout import FanOutStore


class DumpWriter(NamedTuple):
    """The repository to write to; with mirrors, all that answered, which get the same."""

    repository: Repository
    store: FanOutStore | None
    members: Members | None


class DumpView(NamedTuple):
    """The dumps of a cluster, and where they are."""

    repository: Repository
    layout: Layout
    dumps: Dumps

    def find(self, name: str) -> StoredDump:
        """See ``repository.dumps.find_dump``."""
        from pgkeep.repository.dumps import find_dump

        return find_dump(self.dumps, name)


@contextmanager
def open_dump_writer(context: Context) -> Iterator[DumpWriter]:
    """For a run that makes a dump."""
    settings = context.settings
    if not settings.mirrors:
        host = open_host_state(settings, context.owner_uid)
        store = ask_for_start(open_store(settings, outages=context.outages), settings.cluster)
        yield DumpWriter(open_repository(store, host, unlock=unlock_of(settings)), None, None)
        return
    from pgkeep.cli.members import open_members
    from pgkeep.cli.mirroring import open_lead

    members = open_members(context, context.owner_uid)
    repository, several = open_lead(context, members)
    try:
        yield DumpWriter(repository, several, members)
    finally:
        several.close()


def view_dumps(
    context: Context, *, system: str | None = None, owner_uid: int | None = None
) -> DumpView:
    """Everything that there is. Raises what opening and listing raise."""
    from pgkeep.repository.dumps import read_dumps

    repository = open_repo(context, context.owner_uid if owner_uid is None else owner_uid)
    layout = system_layout(context.settings, repository, system=system)
    return DumpView(repository, layout, read_dumps(repository, layout))


def add_dump_argument(parser: ArgumentParser) -> None:
    """Which dump."""
    parser.add_argument(
        "dump",
        metavar="DUMP",
        nargs="?",
        default="latest",
        help="its name as list shows it, an unmistakable beginning, or latest (the default)",
    )
