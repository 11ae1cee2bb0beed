"""The recovery sheet: what a person keeps outside this machine to get everything back.

It names what is needed and never holds it: a sheet may lie in a wiki. The same explanation, without
anything that is particular to a host, lies in the repository as ``pgkeep/README.txt``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pgkeep.repository import layout

if TYPE_CHECKING:
    from pgkeep.repository.identity import RepositoryIdentity
    from pgkeep.setup.init import InitReport

README_KEY = layout.README


def recovery_sheet(report: InitReport) -> list[str]:
    """The lines of the sheet."""
    rows = [
        ("repository", report.url),
        ("cluster", report.cluster),
        ("system identifier", str(report.system_identifier)),
        ("repository id", report.repository_id),
        ("fingerprint", report.fingerprint if report.sealed else "- (not encrypted)"),
        ("opened by", opened_by(report.recipients, report.passphrase, report.sealed)[0]),
    ]
    rows += [
        ("", more) for more in opened_by(report.recipients, report.passphrase, report.sealed)[1:]
    ]
    given = identity_variable(report.passphrase, report.sealed)
    environment = f"PGKEEP_REPO={report.url} PGKEEP_CLUSTER={report.cluster}"
    environment += f" {given}" if given else ""
    rows += [
        ("to see backups", f"{environment} pgkeep list"),
        ("to restore", f"{environment} pgkeep restore --into DIRECTORY --latest"),
    ]
    return [f"  {title:<18} {text}" for title, text in rows]


def opened_by(recipients: Sequence[str], passphrase: bool, sealed: bool) -> list[str]:
    """Who can read the repository, a line each."""
    if not sealed:
        return ["anybody who can read the files: the repository is not encrypted"]
    if passphrase:
        return ["the passphrase"]
    return [f"the secret key of {recipient}" for recipient in recipients]


def identity_variable(passphrase: bool, sealed: bool) -> str:
    """The variable that gives what opens the repository; nothing when it is not sealed."""
    if not sealed:
        return ""
    return "PGKEEP_PASSPHRASE_FILE=FILE" if passphrase else "PGKEEP_IDENTITY=FILE"


def readme_text(identity: RepositoryIdentity) -> str:
    """What lies in the repository for whoever finds it."""
    keys = identity.keys
    sealed = keys is not None
    passphrase = bool(keys and keys.passphrase)
    who = opened_by(keys.recipients if keys else (), passphrase, sealed)
    given = identity_variable(passphrase, sealed)
    script = "--identity FILE" if sealed and not passphrase else ""
    return "\n".join(
        [
            "This is a repository of pgkeep: backups and write-ahead log of PostgreSQL clusters.",
            "Do not change, rename or delete anything in it by hand.",
            "",
            f"repository id   {identity.id}",
            f"fingerprint     {identity.fingerprint}",
            f"opened by       {who[0]}",
            *(f"                {more}" for more in who[1:]),
            "",
            "To see what is kept, and to restore it:",
            "",
            "    pip install pgkeep",
            f"    export PGKEEP_REPO=URL PGKEEP_CLUSTER=NAME {given}".rstrip(),
            "    pgkeep list",
            "    pgkeep restore --into DIRECTORY --latest",
            "",
            "Where pgkeep cannot be had, download the repository and run the newest rescue.py in",
            "this folder (Python 3.9 or newer, with zstandard and, if encrypted, cryptography):",
            "",
            "    python3 rescue.py list DIRECTORY",
            f"    python3 rescue.py restore DIRECTORY BACKUP INTO {script}".rstrip(),
            "",
            "URL is where this file's folder lies in; each other top-level folder is the NAME of a",
            "cluster. The format is written down in pgkeep's documentation (docs/format.md).",
            "",
        ]
    )
