"""``pgkeep restore``: a cluster comes back, into a directory, as it was at any moment."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.cli.context import Context
from pgkeep.cli.restore_options import add_arguments as add_arguments
from pgkeep.cli.restore_options import restore_options
from pgkeep.cli.restore_text import render_plan, render_report
from pgkeep.cli.session import open_repo
from pgkeep.cli.store_settings import left_for_server
from pgkeep.cli.systems import restorable_layout
from pgkeep.config import state_directory
from pgkeep.config.mirrors import MAIN
from pgkeep.errors import PgkeepError
from pgkeep.storage.fallback import stores_of

if TYPE_CHECKING:
    from pgkeep.repository.identity import Repository
    from pgkeep.restore.checking import CheckReport
    from pgkeep.restore.plan import FetchAccess
    from pgkeep.restore.run import RestoreReport

EXAMPLES = (
    ("pgkeep restore --into /srv/back", "as new as the repository knows it"),
    (
        "pgkeep restore --into /srv/back --time '2026-11-20 14:03:07+01:00'",
        "as it was at a moment",
    ),
    ("pgkeep restore --into /srv/back --latest --dry-run", "only say what would be done"),
    (
        "pgkeep restore --into /srv/standby --standby --primary 'host=db1 user=replicator'",
        "a new standby",
    ),
    (
        "pgkeep restore --into /srv/back --check",
        "and start it for a look, to know that it works",
    ),
    (
        "pgkeep restore --into /srv/back --only-database shop",
        "one database, and not the others' content",
    ),
)


def fetch_access(context: Context, repository: Repository) -> FetchAccess:
    """How the restored server may call this program, and what its settings file would hold."""
    from pgkeep.restore.plan import FetchAccess

    settings = context.settings
    identity = settings.file_of("identity")
    obstacle = None
    if repository.keyring.sealed and identity is None:
        obstacle = "the identity was given as a text"
        if settings.identity is None:
            obstacle = "the passphrase is not left where the server could read it"
    first, *others = _answering(context, repository)
    values = {"cluster": settings.cluster, **first[1]}
    return FetchAccess(
        context.program,
        values,
        Path(identity) if identity else None,
        obstacle,
        mirrors=dict(others),
    )


def _answering(context: Context, repository: Repository) -> list[tuple[str, dict[str, str]]]:
    """What the server has to be told of each repository that was read.

    One that is away is left out: the restore was planned without it, and the server could never
    be told that a file does not exist while one is silent that may have it.
    """
    settings = context.settings
    urls = [store.url for store in stores_of(repository.store)]
    named = {MAIN: settings, **settings.mirrors}
    names = context.members or (MAIN,)
    return [
        (name, {"repo": url, **left_for_server(named[name])})
        for name, url in zip(names, urls, strict=True)
    ]


def run(context: Context, args: Namespace) -> int:
    """Plan; then show the plan, or do what it says and show what there is now."""
    from pgkeep.cli.privileges import state_owner
    from pgkeep.restore.checking import check_restored, failure_of
    from pgkeep.restore.rates import read_rates
    from pgkeep.restore.run import plan_restore, run_restore

    settings = context.settings
    options = restore_options(settings, args)
    repository = open_repo(context, state_owner(context))
    layout = restorable_layout(settings, repository, system=args.system)
    access = fetch_access(context, repository)
    rates_file = _rates_file(context, repository)
    with context.progress() as progress:
        plan = plan_restore(
            repository,
            layout,
            options,
            access=access,
            progress=progress,
            rates=read_rates(rates_file),
        )
        if args.dry_run:
            context.output.result(
                {**plan.as_dict(), "dry_run": True}, lambda: render_plan(context, plan)
            )
            return 0
        if not context.output.json:
            render_plan(context, plan)
            context.output.stdout.flush()
        context.log.info("restore-begins", backup=plan.resolution.backup.id, into=options.into)
        report = run_restore(repository, layout, plan, access=access, progress=progress)
        context.log.info("restored", files=report.files, bytes=report.written_bytes)
        check = None
        if options.check is not None:
            check = check_restored(report.plan, report.server_facts, progress=progress)
            context.log.info("checked", problems=len(check.problems))
    _remember_rates(context, rates_file, report, check)
    failure = None if check is None else failure_of(check, options.into)
    if failure is not None:
        if not context.output.json:
            render_report(context, report, check)
            context.output.stdout.flush()
        raise failure
    context.output.result(
        {
            **report.as_dict(),
            "dry_run": False,
            "checked": None if check is None else check.as_dict(),
            "progress_warnings": progress.warnings,
        },
        lambda: render_report(context, report, check),
    )
    return 0


def _rates_file(context: Context, repository: Repository) -> Path:
    """Where this host remembers how fast restores from this repository are."""
    from pgkeep.cli.privileges import state_owner

    directory = state_directory(context.settings, state_owner(context))
    return directory / "rates" / f"{repository.keyring.repository_id.hex()}.json"


def _remember_rates(
    context: Context, path: Path, report: RestoreReport, check: CheckReport | None
) -> None:
    """For the next plan; not worth an error. As root, in the name of the state's owner."""
    from pgkeep.cli.privileges import acting_as, state_owner
    from pgkeep.restore.rates import Measured, remember_rates

    rates = report.rates
    if rates is None:
        return
    if check is not None:
        rates = rates._replace(replay=Measured(check.replayed_bytes, check.recovery_seconds))
    try:
        with acting_as(state_owner(context)):
            remember_rates(path, rates)
    except PgkeepError as error:
        context.log.info("rates-not-kept", why=str(error))
