"""What follows a dump that was made: its mirrors get it, and what the policy does not keep goes.

The dump is made by then, and stays made: what goes wrong here is said, and takes nothing back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgkeep.cli.each_repository import One, open_each
from pgkeep.cli.session import writer_facts
from pgkeep.config.mirrors import MAIN, copies_wanted
from pgkeep.errors import PgkeepError, StoreDenied, TooFewCopies
from pgkeep.repository.layout import Layout

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.cli.dumps import DumpWriter
    from pgkeep.progress import Progress
    from pgkeep.repository.dump_record import Contents


def spread_dump(
    context: Context, writer: DumpWriter, contents: Contents, progress: Progress
) -> list[str]:
    """See to it that the mirrors have the dump whole; the names of the repositories that do.

    Raises ``TooFewCopies``.
    """
    from pgkeep.dump.mirror import copy_dump

    if writer.store is None or writer.members is None:
        return [MAIN]
    writer.store.settle()
    layout = Layout(contents.cluster, int(contents.system_identifier))
    lead, *others = writer.members.present
    have, reasons = [lead.name], {one.name: one.error.what for one in writer.members.away}
    dropped = {mirror.name: mirror.problem for mirror in writer.store.mirrors if mirror.problem}
    for member in others:
        problem = dropped.get(member.name)
        try:
            if problem is None:
                copy_dump(lead.store, member.store, layout, contents.dump, contents=contents)
                have.append(member.name)
        except PgkeepError as error:
            problem = error
        if problem is not None:
            reasons[member.name] = problem.what
            progress.warn(f"{member.name} did not get the dump. {problem.what}")
    wanted = copies_wanted(context.settings)
    if len(have) < wanted:
        raise TooFewCopies(
            f"The dump {contents.dump} was made, and {len(have)} of the {wanted} repositories that "
            f"shall have it do: {', '.join(have)}.",
            why=" ".join(f"{name}: {what}" for name, what in reasons.items()) or None,
            remedy="When the others can be reached, run pgkeep copy.",
            dump=contents.dump,
        )
    return have


def lock_it(context: Context, contents: Contents) -> None:
    """Lock the dump in each repository that shall have that and has it. Raises what the store
    raises, and says that the dump was made all the same."""
    from pgkeep.cli.dump_locks import lock_one
    from pgkeep.cli.members import settings_by_name

    if not any(one.object_lock_days for one in settings_by_name(context.settings).values()):
        return
    layout = Layout(contents.cluster, int(contents.system_identifier))
    where = ""
    try:
        for one in open_each(context, among=context.members or None).present:
            where = f" in {one.name}"
            lock_one(context, one.name, one.settings, one.repository, layout, contents.dump)
    except PgkeepError as error:
        error.what = f"The dump {contents.dump} was made, and is not locked{where}. {error.what}"
        raise


def expire_after_dump(context: Context, contents: Contents, progress: Progress) -> None:
    """What ``pgkeep dump expire`` does, in each repository that lets us."""
    try:
        each = open_each(context, among=context.members or None)
    except PgkeepError as error:
        progress.warn(f"Dumps that the policy does not keep were not deleted. {error}")
        return
    for one in each.present:
        _expire_in(context, one, contents, progress)


def _expire_in(context: Context, one: One, contents: Contents, progress: Progress) -> None:
    from pgkeep.dump.expire import expire_dumps

    if not one.repository.keyring.can_read_metadata:
        return
    layout = Layout(contents.cluster, int(contents.system_identifier))
    try:
        expire_dumps(
            one.repository,
            [layout],
            context.settings.dump_keep,
            by=writer_facts(),
            progress=progress,
        )
    except StoreDenied as error:
        context.log.info("expiry-denied", repository=one.name, reason=error.what)
    except PgkeepError as error:
        progress.warn(
            f"Dumps that the policy does not keep were not deleted in {one.name}. {error}"
        )
