"""What follows a backup that was made: a hold if it was asked for, and expiry where it may be.

The backup is made by then, and stays made: that this host may not delete is as it should be for
one that only writes, and what else goes wrong with expiry is warned of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgkeep.cli.each_repository import One, open_each
from pgkeep.cli.members import settings_by_name
from pgkeep.cli.session import writer_facts
from pgkeep.errors import PgkeepError, StoreDenied
from pgkeep.repository.layout import Layout

if TYPE_CHECKING:
    from pgkeep.cli.context import Context
    from pgkeep.progress import Progress
    from pgkeep.repository.manifest import Head


def _present(context: Context) -> list[One]:
    """The repositories that answered when the backup began: others are not waited for again."""
    return open_each(context, among=context.members or None).present


def hold_it(context: Context, head: Head) -> None:
    """Hold the backup in each repository that has it. Raises ``StoreDenied`` and the like, and says
    that the backup was made all the same."""
    from pgkeep.keep.by_hand import hold

    layout = Layout(head.cluster, int(head.system_identifier))
    try:
        for one in _present(context):
            if one.repository.store.exists(layout.manifest(head.backup)):
                hold(one.repository, layout, [head.backup], reason=head.note, by=writer_facts())
    except PgkeepError as error:
        error.what = f"The backup {head.backup} was made, and is not held. {error.what}"
        raise


def lock_it(context: Context, head: Head) -> None:
    """Lock what the backup needs in each repository that shall have that and has the backup.

    Raises what the store raises, and says that the backup was made all the same.
    """
    from pgkeep.cli.object_locks import lock_of, memory_of
    from pgkeep.keep.locking import lock_backup

    if not any(one.object_lock_days for one in settings_by_name(context.settings).values()):
        return
    layout = Layout(head.cluster, int(head.system_identifier))
    for one in _present(context):
        days = one.settings.object_lock_days
        if days is None or not one.repository.store.exists(layout.manifest(head.backup)):
            continue
        try:
            lock = lock_of(one.settings)
            memory = memory_of(context, one)
            report = lock_backup(
                one.repository, layout, head.backup, lock, days=days, memory=memory
            )
            lock.close()
        except PgkeepError as error:
            error.what = f"The backup {head.backup} was made, and is not locked in {one.name}. "
            error.what += str(error.args[0])
            raise
        context.log.info("locked", repository=one.name, extended=report.extended)


def wants_expiry(context: Context) -> bool:
    """By the option if it is given, else by the setting; and never without the metadata key."""
    asked: bool | None = context.args.expire
    return context.settings.expire_after_backup if asked is None else asked


def expire_after(context: Context, progress: Progress) -> None:
    """What ``pgkeep expire`` does, in each repository that lets us."""
    from pgkeep.keep.run import ExpireOptions, expire

    for one in _present(context):
        if not one.repository.keyring.can_read_metadata:
            continue
        settings = one.settings
        options = ExpireOptions(settings.keep, settings.keep_grace, writer_facts(), sweep=None)
        try:
            expire(one.repository, context.settings.cluster, options, progress=progress)
        except StoreDenied as error:
            context.log.info("expiry-denied", repository=one.name, reason=error.what)
        except PgkeepError as error:
            progress.warn(f"What the policy does not keep was not given up in {one.name}. {error}")
