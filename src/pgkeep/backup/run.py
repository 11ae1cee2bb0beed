"""One backup, from the first question to the second copy of the manifest.

The order is the promise: prove that the directory is the server's; copy, and prove meanwhile that
WAL arrives; stop; see every segment from start to stop in the repository; have every pack stored;
only then create the manifest, twice. Whatever happens before that leaves packs that nobody names,
or only a partial manifest, from which the next backup goes on.
"""

from __future__ import annotations

from pgkeep.backup.attempt import Attempt
from pgkeep.backup.attempt import BackupOptions as BackupOptions
from pgkeep.backup.filling import check_ways
from pgkeep.backup.prepare import find_data_directory
from pgkeep.backup.steps import BackupReport as BackupReport
from pgkeep.backup.steps import make_backup
from pgkeep.backup.throttle import lower_priority
from pgkeep.postgres.connection import ServerConnection
from pgkeep.progress import Progress
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.lease import Lease, holding
from pgkeep.repository.system import check_system


def run_backup(
    repository: Repository,
    connection: ServerConnection,
    options: BackupOptions,
    *,
    progress: Progress,
) -> BackupReport:
    """Make a backup; returns when both copies of its manifest are durable.

    It stores the pages that differ from the last backup's, all of them if there is none, or if
    ``options.full`` asks for that.

    Raises ``WrongDataDirectory``, ``ArchivingNotWorking``, ``UnknownSystem``, ``CopyRefused``,
    ``StoreError``, ``ServerError``, ``LocalIOError``, ``BackupError``
    (``BackupRunning`` while another one of the cluster is being made). After any of them there is
    no new backup, unless it was the manifest's second copy that could not be stored.
    """
    facts = connection.server_facts()
    directory = find_data_directory(facts, options.pgdata, force_version=options.force_version)
    check_system(repository.store, options.cluster, facts.system_identifier)
    check_ways(facts, connection, options.primary)
    if options.low_priority:
        lower_priority()
    attempt = Attempt(
        repository,
        Layout(options.cluster, facts.system_identifier),
        options,
        progress,
        facts,
        directory,
        repository.keyring.page_hash_key(),
    )
    if not repository.keyring.can_read_metadata:
        progress.warn(
            "This host has no key for the repository's metadata: it makes full backups only, and "
            "cannot list them. Run pgkeep init here once with PGKEEP_IDENTITY to change that."
        )
    try:
        # Before the pin, so that a run that is refused leaves none behind, which would live for
        # days. Nothing that the pin protects is looked at before it is there.
        with holding(_lease(attempt)):
            return make_backup(attempt, connection)
    finally:
        attempt.manifest.close()


def _lease(attempt: Attempt) -> Lease:
    return Lease(
        attempt.repository.store,
        attempt.layout,
        attempt=attempt.id,
        by=attempt.by(),
        progress=attempt.progress,
        seconds=attempt.options.lease_seconds,
    )
