"""Everything that can go wrong, and what a user does about it.

One class is one promise: its exit code never changes meaning, and its text answers
three questions: what happened to which object, why as far as we know, and what to do.
The exit codes below are the ones that ``docs/reference/exit-codes.md`` lists; that page
is generated from this file.

PgkeepError                          1   something failed that has no code of its own
 ├─ UsageError                       2   the command line does not make sense
 ├─ ConfigError                      3   a setting is missing, unknown or malformed
 ├─ LocalIOError                     4   the local disk refused: full, read-only, unreadable
 ├─ Interrupted                    130   stopped by the user (Ctrl-C) or by SIGTERM
 ├─ ServerError                     10   the PostgreSQL server cannot be reached or refused
 │   ├─ WrongDataDirectory          11   the directory is not the running server's
 │   ├─ UnsupportedVersion          12   a major version that pgkeep was not tested with
 │   ├─ ArchivingNotWorking         13   WAL does not arrive in the repository
 │   └─ BrokenServerFile            14   a file of the server does not parse (pg_control, history)
 ├─ RestoreError                    20   the restore was not possible, or was stopped
 │   ├─ TargetNotReachable          21   WAL is missing, or no backup precedes the target
 │   ├─ AmbiguousTimeline           22   several live branches; the user must choose
 │   ├─ DirectoryNotEmpty           23   the target directory holds something
 │   ├─ NoSuchBackup                24   the named backup is not in the repository
 │   └─ CheckFailed                 25   it was restored, and restore --check found it wrong
 ├─ ArchiveError                    30   a WAL file cannot be archived or fetched
 │   ├─ WalConflict                 31   same name, other content: two servers, one name
 │   ├─ ForeignWal                  32   the segment belongs to another cluster
 │   ├─ CopyRefused                 33   a restored copy must not write into the repository
 │   └─ WalNotFound                 34   the store positively says that the file is not there
 ├─ StoreError                      40   the object store failed
 │   ├─ ObjectNotFound              41   the store positively says that the object is not there
 │   ├─ ObjectExists                42   a create-only put found another object in its place
 │   ├─ PreconditionFailed          43   compare-and-swap lost
 │   ├─ StoreDenied                 44   credentials or a policy forbid it
 │   ├─ StoreFull                   45   no space or quota left
 │   └─ StoreUnavailable            46   time-outs, connection refused, 5xx: may pass
 ├─ SealError                       50   an object cannot be sealed or opened
 │   ├─ IdentityNeeded              51   the secret key that opens it is not here
 │   ├─ WrongIdentity               52   a key is here, and it is not the one
 │   └─ KeysChanged                 53   the repository's public keys are not the pinned ones
 ├─ RepositoryError                 60   the repository is not as it should be
 │   ├─ NoRepository                61   nothing was initialised at this URL
 │   ├─ FormatTooNew                62   written by a newer pgkeep
 │   ├─ UnknownSystem               63   another system identifier under a known cluster name
 │   ├─ DamagedObject               64   stored bytes are not what was stored
 │   ├─ Busy                        65   another process does the same work
 │   ├─ TooFewCopies                66   it is stored, in fewer repositories than asked for
 │   ├─ MirrorsDiffer               67   a repository lacks, or has otherwise, what others have
 │   ├─ ProblemsFound               68   verify found objects that are missing or damaged
 │   └─ BackupKept                  69   a backup that is held, or the last good one, is not deleted
 ├─ BackupError                     70   the backup was not made
 │   ├─ PagesDamaged                71   the backup was made and kept, and holds damaged pages
 │   └─ BackupRunning               72   another backup of the cluster is being made
 └─ DumpError                       80   the dump was not made, or not given back
     ├─ DumpIncomplete              81   the dump was made and kept, and lacks something
     ├─ ProgramMissing              82   no pg_dump or pg_restore of a fitting version was found
     ├─ NoSuchDump                  83   the named dump, or a part of it, is not in the repository
     ├─ DumpRefused                 84   the server cannot take the dump so; nothing was changed
     └─ DumpRestoreFailed           85   a statement failed while a dump was restored

``wal-push`` exits only with 0 and codes up to 125. ``wal-fetch`` exits 0, 1 for a file that
is positively absent, and 200 for every other error (see ``docs/concepts/archiving.md``).
"""

from __future__ import annotations


class PgkeepError(Exception):
    """Base of all errors that a user may see.

    ``what`` is one sentence of what happened, with its object; ``why`` what is known of the
    cause; ``remedy`` what to do next. ``facts`` are the same as fields for ``--json``.
    """

    exit_code = 1
    docs = "reference/exit-codes"

    def __init__(
        self, what: str, *, why: str | None = None, remedy: str | None = None, **facts: object
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.remedy = remedy
        self.facts = facts

    def __str__(self) -> str:
        return " ".join(part for part in (self.what, self.why, self.remedy) if part)

    def as_dict(self) -> dict[str, object]:
        """The error as the fields that ``--json`` prints."""
        return {
            "error": type(self).__name__,
            "exit_code": self.exit_code,
            "what": self.what,
            "why": self.why,
            "remedy": self.remedy,
            "docs": self.docs,
            "facts": {name: str(value) for name, value in self.facts.items()},
        }


class UsageError(PgkeepError):
    exit_code = 2


class ConfigError(PgkeepError):
    exit_code = 3
    docs = "reference/configuration"


class LocalIOError(PgkeepError):
    exit_code = 4


class Interrupted(PgkeepError):
    exit_code = 130


class ServerError(PgkeepError):
    exit_code = 10
    docs = "guide/setup"


class WrongDataDirectory(ServerError):
    exit_code = 11


class UnsupportedVersion(ServerError):
    exit_code = 12


class ArchivingNotWorking(ServerError):
    exit_code = 13
    docs = "concepts/archiving"


class BrokenServerFile(ServerError):
    exit_code = 14


class RestoreError(PgkeepError):
    exit_code = 20
    docs = "guide/restore"


class TargetNotReachable(RestoreError):
    exit_code = 21


class AmbiguousTimeline(RestoreError):
    exit_code = 22


class DirectoryNotEmpty(RestoreError):
    exit_code = 23


class NoSuchBackup(RestoreError):
    exit_code = 24


class CheckFailed(RestoreError):
    exit_code = 25


class ArchiveError(PgkeepError):
    exit_code = 30
    docs = "concepts/archiving"


class WalConflict(ArchiveError):
    exit_code = 31


class ForeignWal(ArchiveError):
    exit_code = 32


class CopyRefused(ArchiveError):
    exit_code = 33
    docs = "guide/restore"


class WalNotFound(ArchiveError):
    exit_code = 34


class StoreError(PgkeepError):
    exit_code = 40
    docs = "reference/stores"


class ObjectNotFound(StoreError):
    exit_code = 41


class ObjectExists(StoreError):
    exit_code = 42


class PreconditionFailed(StoreError):
    exit_code = 43


class StoreDenied(StoreError):
    exit_code = 44


class StoreFull(StoreError):
    exit_code = 45


class StoreUnavailable(StoreError):
    exit_code = 46


class SealError(PgkeepError):
    exit_code = 50
    docs = "concepts/encryption"


class IdentityNeeded(SealError):
    exit_code = 51


class WrongIdentity(SealError):
    exit_code = 52


class KeysChanged(SealError):
    exit_code = 53


class RepositoryError(PgkeepError):
    exit_code = 60


class NoRepository(RepositoryError):
    exit_code = 61
    docs = "guide/setup"


class FormatTooNew(RepositoryError):
    exit_code = 62


class UnknownSystem(RepositoryError):
    exit_code = 63
    docs = "guide/setup"


class DamagedObject(RepositoryError):
    exit_code = 64


class Busy(RepositoryError):
    exit_code = 65


class TooFewCopies(RepositoryError):
    exit_code = 66
    docs = "concepts/mirrors"


class MirrorsDiffer(RepositoryError):
    exit_code = 67
    docs = "concepts/mirrors"


class ProblemsFound(RepositoryError):
    exit_code = 68
    docs = "guide/verify"


class BackupKept(RepositoryError):
    exit_code = 69
    docs = "guide/keep"


class BackupError(PgkeepError):
    exit_code = 70
    docs = "guide/backup"


class PagesDamaged(BackupError):
    exit_code = 71


class BackupRunning(BackupError):
    exit_code = 72


class DumpError(PgkeepError):
    exit_code = 80
    docs = "guide/dumps"


class DumpIncomplete(DumpError):
    exit_code = 81


class ProgramMissing(DumpError):
    exit_code = 82


class NoSuchDump(DumpError):
    exit_code = 83


class DumpRefused(DumpError):
    exit_code = 84


class DumpRestoreFailed(DumpError):
    exit_code = 85
