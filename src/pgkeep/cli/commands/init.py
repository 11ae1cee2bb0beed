"""``pgkeep init``: make a repository, or join this host to one."""

from __future__ import annotations

import socket
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.cli.context import Context
from pgkeep.cli.init_mirrors import bring_back, join_mirrors
from pgkeep.cli.object_locks import check_locks
from pgkeep.cli.session import (
    connect_server,
    now_text,
    open_host_state,
    open_store,
    unlock_of,
    writer_facts,
)
from pgkeep.config.mirrors import MAIN
from pgkeep.errors import ConfigError, ServerError, StoreUnavailable, UsageError, WrongDataDirectory
from pgkeep.mirror.member import Member
from pgkeep.repository.layout import check_cluster_name

if TYPE_CHECKING:
    from pgkeep.setup.init import InitReport, Sealing, SystemSeen
    from pgkeep.storage import Store

EXAMPLES = (
    ("pgkeep init --repo file:///srv/backups --recipient age1…", "make one, sealed to a key"),
    ("pgkeep init", "join this host to it (PGKEEP_REPO is set)"),
    (
        "pgkeep init --new-system",
        "after initdb or pg_upgrade: this server replaces the old one",
    ),
)


def add_arguments(parser: ArgumentParser) -> None:
    """How a new repository is sealed, and what is meant when something changed."""
    group = parser.add_argument_group("sealing of a new repository (one of the three)")
    group.add_argument(
        "--recipient",
        action="append",
        default=[],
        metavar="KEY",
        help="public key that can open it, age1… or ssh-ed25519 …; may be repeated",
    )
    group.add_argument(
        "-R",
        "--recipients-file",
        action="append",
        default=[],
        metavar="FILE",
        help="file of such keys, one a line",
    )
    group.add_argument(
        "--passphrase-file", metavar="FILE", help="file whose content is the passphrase"
    )
    group.add_argument(
        "--no-encryption",
        action="store_true",
        help="whoever can read the repository can read the database",
    )
    group = parser.add_argument_group("object stores")
    group.add_argument(
        "--create-bucket",
        action="store_true",
        help="make the bucket (s3://) or container (az://) if it is not there",
    )
    group = parser.add_argument_group("when something changed")
    group.add_argument(
        "--new-system",
        action="store_true",
        help="this server replaces the one that was known under the cluster's name",
    )
    group.add_argument(
        "--accept-fingerprint",
        metavar="HEX",
        help="the repository at this URL is meant to be another one than before",
    )


def run(context: Context, args: Namespace) -> int:
    """Learn who the server is, make or join the repository, and print the recovery sheet."""
    from pgkeep.setup.init import InitRequest, init_repository

    settings = context.settings
    check_cluster_name(settings.cluster)
    sealing = _sealing(context, args)
    system = _system(context)
    if args.create_bucket:
        _create_bucket(context)
    check_locks(settings)
    if settings.mirrors:
        bring_back(context)
    store = _store(context, sealing)
    host = open_host_state(settings, context.owner_uid)
    report = init_repository(
        store,
        host,
        InitRequest(
            cluster=settings.cluster,
            sealing=sealing,
            unlock=unlock_of(settings),
            system=system,
            host_name=socket.gethostname(),
            at=now_text(),
            by=writer_facts(),
            new_system=args.new_system,
            accept_fingerprint=args.accept_fingerprint,
        ),
    )
    context.log.info("initialised", created=report.created, system=report.system_identifier)
    warnings = _warnings(report)
    mirrors = join_mirrors(context, Member(MAIN, store)) if settings.mirrors else []
    warnings += [f"{mirror.name}: {text}" for mirror in mirrors for text in mirror.losses]
    document = {
        **asdict(report),
        "can_list": report.can_list,
        "warnings": warnings,
        "mirrors": [mirror._asdict() for mirror in mirrors],
    }

    def render() -> None:
        _render(context, report, system, warnings)
        for mirror in mirrors:
            verb = "Made the mirror" if mirror.made else "The mirror is there:"
            context.output.say(f"{verb} {mirror.name} {mirror.url}")

    context.output.result(document, render)
    return 0


def _create_bucket(context: Context) -> None:
    """Make the bucket that PGKEEP_REPO names. Raises ``UsageError``, and what making it raises."""
    from pgkeep.cli.store_settings import store_options

    options = store_options(context.settings)
    if options is None:
        raise UsageError(
            "--create-bucket is for object stores, and PGKEEP_REPO names none.",
            remedy="Leave it out: init makes the directory of a file:// repository by itself.",
        )
    from pgkeep.storage.create_bucket import create_bucket
    from pgkeep.storage.object_url import parse_object_url

    made = create_bucket(parse_object_url(str(context.settings.repo)), options)
    context.log.info("bucket", made=made)


def _store(context: Context, sealing: Sealing) -> Store:
    """Where the repository is, or shall be. Raises ``UsageError`` when it cannot be either."""
    from pgkeep.setup.init import no_sealing_chosen

    try:
        return open_store(context.settings, create=sealing.chosen, outages=context.outages)
    except StoreUnavailable as error:
        if sealing.chosen:
            raise
        raise no_sealing_chosen(str(context.settings.repo), f"{error.what} {error.why}") from error


def _sealing(context: Context, args: Namespace) -> Sealing:
    """What the options say of sealing. Raises ``UsageError``, ``ConfigError``."""
    from pgkeep.setup.init import Sealing, read_recipients

    recipients = [recipient.strip() for recipient in args.recipient]
    for file in args.recipients_file:
        recipients += read_recipients(_read(context, file).splitlines(), file)
    chosen = [bool(recipients), bool(args.passphrase_file), args.no_encryption]
    if sum(chosen) > 1:
        raise UsageError(
            "More than one way to seal the repository was given.",
            remedy="Give --recipient, --passphrase-file or --no-encryption.",
        )
    passphrase = _read(context, args.passphrase_file).strip() if args.passphrase_file else None
    if passphrase == "":
        raise ConfigError(f"The passphrase file {args.passphrase_file} is empty.")
    return Sealing(tuple(dict.fromkeys(recipients)), passphrase, args.no_encryption)


def _read(context: Context, path: str) -> str:
    if path in context.texts:
        return context.texts[path]
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read.",
            why=f"{getattr(error, 'strerror', None) or 'It is not text'}.",
            remedy="Check the path, and that the owner of the data directory may read it.",
        ) from error


def _system(context: Context) -> SystemSeen:
    """Who the cluster is: the server says it, or pg_control while the server is down.

    Raises ``ServerError``, ``WrongDataDirectory``, ``UnsupportedVersion``.
    """
    from pgkeep.postgres.settings import check_major

    running, problem = _from_server(context)
    stored = _from_control(context)
    if running and stored and running.system_identifier != stored.system_identifier:
        raise WrongDataDirectory(
            f"{context.settings.pgdata} is not the running server's data directory.",
            why=f"It holds system {stored.system_identifier}, "
            f"and the server is system {running.system_identifier}.",
            remedy="Correct PGKEEP_PGDATA, or PGHOST and PGPORT.",
        )
    system = running or stored
    if system is None:
        raise ServerError(
            "Nothing says which cluster this is: the server cannot be reached, and PGKEEP_PGDATA "
            "is not set.",
            why=problem.why if problem else None,
            remedy="Start the server, or set PGKEEP_PGDATA to its data directory.",
        )
    force = context.settings.force_version == str(system.postgres_major)
    check_major(system.postgres_major, force=force)
    return system


def _from_server(context: Context) -> tuple[SystemSeen | None, ServerError | None]:
    from pgkeep.setup.init import SystemSeen

    try:
        with connect_server(context) as connection:
            found = connection.value("SELECT system_identifier FROM pg_control_system()")
            # SQL shows the unsigned number as a signed one.
            identifier = int(found) % (1 << 64)
            return SystemSeen(identifier, connection.major, "the running server"), None
    except ServerError as error:
        context.log.info("server-not-reached", why=error.why)
        return None, error


def _from_control(context: Context) -> SystemSeen | None:
    from pgkeep.postgres.datadir import read_control, read_version
    from pgkeep.setup.init import SystemSeen

    pgdata = context.settings.pgdata
    if pgdata is None:
        return None
    control = read_control(pgdata)
    return SystemSeen(
        control.system_identifier, read_version(pgdata), f"{pgdata}/global/pg_control"
    )


def _warnings(report: InitReport) -> list[str]:
    found = list(report.probe.losses)
    if report.host_key == "missing":
        found.append(
            "This host has no key to the repository: it can archive WAL and make full backups, "
            "and cannot list backups or make incremental ones. To change that, run pgkeep init "
            "here once with PGKEEP_IDENTITY (or PGKEEP_PASSPHRASE_FILE)."
        )
    if report.probe.can_destroy:
        found.append(
            "This host may overwrite or delete what lies in the repository: an intruder here "
            "could destroy the backups, too. Keep a copy where this host cannot delete."
        )
    return found


def _render(context: Context, report: InitReport, system: SystemSeen, warnings: list[str]) -> None:
    from pgkeep.setup.sheet import identity_variable, recovery_sheet

    say = context.output.say
    verb = "Made the repository" if report.created else "The repository is there:"
    known = "registered" if report.registered else "known already"
    say(f"{verb} {report.url}")
    say(
        f"Cluster {report.cluster}: system {report.system_identifier}, PostgreSQL "
        f"{report.postgres_major}, {known} (told by {system.told_by})"
    )
    if report.host_key_path is not None:
        say(f"This host's key: {report.host_key_path}")
    say()
    say("Recovery sheet: keep it, and what opens the repository, away from this machine")
    for line in recovery_sheet(report):
        say(line)
    say()
    if report.proved:
        say("Proved: what you gave opens the repository.")
    elif report.sealed:
        given = identity_variable(report.passphrase, report.sealed)
        say("Not proved yet: that what you keep opens it. With it at hand on this host once, run:")
        say(f"  {given} pgkeep init --repo {report.url} --cluster {report.cluster}")
    for warning in warnings:
        context.output.warn(warning)
