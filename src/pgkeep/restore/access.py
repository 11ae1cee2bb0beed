"""How WAL reaches the restored server: by a command that calls pgkeep, or copied beforehand.

The server has neither our environment nor root's rights. Whether it can call pgkeep is therefore
found out as the user it will run as: first by looking (is the program executable, is the identity
file readable?), which decides the plan; then, when the data is there, by fetching a segment for
real with the very command line that will stand in ``restore_command``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from pgkeep.errors import PgkeepError, RestoreError, StoreDenied, StoreError
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import PROBES
from pgkeep.restore.destination import supplementary_groups
from pgkeep.restore.plan import FetchAccess, Owner, WalMode
from pgkeep.storage.fallback import stores_of
from pgkeep.storage.interface import Store
from pgkeep.storage.open import local_path

_LOOK_SECONDS = 20
_TRIAL_SECONDS = 120


def choose_wal_mode(
    access: FetchAccess, repository: Repository, *, owner: Owner, wanted: WalMode | None
) -> tuple[WalMode, str]:
    """``fetch`` if the server's user can call pgkeep, else ``copied``; and the reason.

    Raises ``RestoreError`` when fetching was asked for and cannot work.
    """
    if wanted == "copied":
        return "copied", "as asked"
    obstacle = access.obstacle or _obstacle(access, repository, owner)
    if obstacle is None:
        return "fetch", "as asked" if wanted else f"user {owner.name} can call pgkeep"
    if wanted == "fetch":
        raise RestoreError(
            "WAL cannot be fetched by the restored server.",
            why=f"{obstacle[0].upper()}{obstacle[1:]}.",
            remedy="Leave --wal out: then WAL is copied into the directory beforehand.",
        )
    return "copied", obstacle


def try_fetch(command: str, into: Path, *, control: Path, segment: str, owner: Owner) -> str | None:
    """Run a restore command (with ``%f`` and ``%p``) once, as the owner would.

    Returns what it said if it did not work. ``control`` is pg_control, wherever it lies now.
    """
    place = into / "pgkeep.trial"
    target = place / "fetched"
    try:
        (place / "global").mkdir(parents=True, mode=0o700)
        shutil.copyfile(control, place / "global" / "pg_control")
        if owner.change:
            for path in (place, place / "global", place / "global" / "pg_control"):
                # The first is his by now, and what he makes of the next is not followed.
                os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
        line = fill_in(command, segment, target.name)  # relative, as the server gives it
        done = _run(["/bin/sh", "-c", line], owner, cwd=place, seconds=_TRIAL_SECONDS)
        if done.returncode == 0 and target.exists():
            return None
        said = (done.stderr or done.stdout).strip().replace("\n", " ")
        return f"{said or 'nothing was said'} (exit code {done.returncode})"
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def fill_in(command: str, name: str, path: str) -> str:
    """What the server makes of a restore command (``BuildRestoreCommand``)."""
    pieces = command.split("%%")
    return "%".join(piece.replace("%f", name).replace("%p", path) for piece in pieces)


def _obstacle(access: FetchAccess, repository: Repository, owner: Owner) -> str | None:
    if not access.program or not Path(access.program[0]).is_absolute():
        return "the program has no absolute path"
    tests = [("-x", access.program[0], f"user {owner.name} cannot execute {access.program[0]}")]
    if repository.keyring.sealed:
        if access.identity_file is None:
            return "the identity is not a file that the server could be told of"
        identity = str(access.identity_file)
        tests.append(
            ("-r", identity, f"user {owner.name} cannot read the identity file {identity}")
        )
    tables = [access.settings, *access.mirrors.values()]
    files = [path for table in tables for name, path in table.items() if name.endswith("_file")]
    tests += [("-r", path, f"user {owner.name} cannot read {path}") for path in files]
    for store in stores_of(repository.store):
        if _denies_missing(store):
            return (
                f'{store.url} says "denied" of files that are not there, and recovery asks for them'
            )
        with suppress(PgkeepError):  # not a directory of this machine: the trial will tell
            root = local_path(store.url)
            record = f"{root}/pgkeep/repository"
            tests.append(("-r", record, f"user {owner.name} cannot read {root}"))
    for option, path, text in tests:
        try:
            if _run(["test", option, path], owner, cwd=Path("/"), seconds=_LOOK_SECONDS).returncode:
                return text
        except (OSError, subprocess.SubprocessError) as error:
            return f"nothing can be run as {owner.name} ({error})"
    return None


def _denies_missing(store: Store) -> bool:
    """As S3 does to those who may not list the bucket. The end of WAL could not be told then."""
    try:
        store.head(PROBES + os.urandom(16).hex())
    except StoreDenied:
        return True
    except StoreError:
        return False
    return False


def _run(
    argv: list[str], owner: Owner, *, cwd: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a program as the server would: as its user, with next to no environment."""
    options = {}
    if owner.change:
        options = {
            "user": owner.uid,
            "group": owner.gid,
            "extra_groups": supplementary_groups(owner),
        }
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        argv,
        check=False,
        cwd=cwd,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        **options,
    )
