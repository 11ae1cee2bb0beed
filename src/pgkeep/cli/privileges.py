"""Started by root, pgkeep goes on as the owner of the data directory.

What root would write, the server could not read: the host's key, the cache, the objects of a local
repository. And whoever only reads a data directory needs no more than its owner can do. So every
command but ``restore`` becomes that user for good, before it opens anything, after it has read
what only root may read (an identity file) and made the directories that only root can make.

Who the owner is, is asked in this order: PGKEEP_PGDATA; the server's Unix socket, which belongs to
the server's user; the server itself; the state directory and the local repository, if another
user than root owns them. Sockets in a directory where anybody may make one (/tmp) count only when
the user named that directory.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.config import Settings, state_directory
from pgkeep.config.table import BY_NAME
from pgkeep.errors import ConfigError, LocalIOError, PgkeepError

if TYPE_CHECKING:
    from pgkeep.cli.context import Context

_SOCKET_DIRECTORIES = ("/run/postgresql", "/var/run/postgresql")


class Owner(NamedTuple):
    """A user, and how we know that he owns the data directory."""

    uid: int
    gid: int
    told_by: str


def become_owner(context: Context, *, quietly: bool = False) -> None:
    """Go on as the owner of the data directory; as root when nothing says who that is."""
    owner = find_owner(context)
    if owner is None:
        if not quietly:
            context.output.warn(
                "Going on as root: neither PGKEEP_PGDATA nor a running server says whose the "
                "data directory is. What is written now belongs to root."
            )
        return
    if owner.uid == 0:
        return
    context.settings = _with_secrets_read(context.settings)
    context.texts = _argument_files(context)
    _prepare_directories(context, owner)
    become(owner.uid, gid=owner.gid)
    _check_program_readable(owner)
    context.owner_uid = owner.uid
    context.log.info("user", uid=owner.uid, told_by=owner.told_by)


def find_owner(context: Context) -> Owner | None:
    """Who owns the data directory; None when nothing says it."""
    settings = context.settings
    if settings.pgdata is not None:
        with suppress(OSError):
            return _owner_of(Path(settings.pgdata), "PGKEEP_PGDATA")
    return _from_socket(context) or _from_server(context) or _from_directories(settings)


def state_owner(context: Context) -> int:
    """Whose state directory a command uses that stays root: what this host knows of repositories
    is the data directory's owner's knowledge, and ``init`` corrects it there. Asks no server."""
    settings = context.settings
    if os.geteuid() != 0:
        return context.owner_uid
    owner = _from_socket(context) or _from_directories(settings)
    if owner is not None and state_directory(settings, owner.uid).is_dir():
        return owner.uid
    return context.owner_uid


def become(uid: int, *, gid: int | None = None) -> None:
    """Become another user for good: groups, ids, and the environment that follows from them."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        gid = uid if gid is None else gid
        os.setgroups([gid])
        name, home = str(uid), "/"
    else:
        gid = entry.pw_gid
        os.initgroups(entry.pw_name, gid)
        name, home = entry.pw_name, entry.pw_dir
    os.setgid(gid)
    os.setuid(uid)
    os.environ.update(HOME=home, USER=name, LOGNAME=name)
    try:
        next(Path.cwd().iterdir(), None)
    except OSError:
        os.chdir("/")


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    """Touch files as another user for a moment. Only while the process has a single thread."""
    before = os.geteuid()
    if before == uid or before != 0:
        yield
        return
    group = os.getegid()
    with suppress(KeyError):
        os.setegid(pwd.getpwuid(uid).pw_gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(before)
        os.setegid(group)


def make_owned_directory(path: Path, owner: Owner) -> None:
    """Make a directory (0700) for ``owner`` where only root may make one; an existing one stays.

    Raises ``LocalIOError``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(0o700)
        # By handle: the name could be another's by now, where others may write to the parent.
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(handle, owner.uid, owner.gid)
            os.fsync(handle)
        finally:
            os.close(handle)
    except FileExistsError:
        return
    except OSError as error:
        raise LocalIOError(
            f"The directory {path} cannot be made.",
            why=f"{error.strerror}.",
            remedy="Make it, and give it to the owner of the data directory.",
        ) from error


def _with_secrets_read(settings: Settings) -> Settings:
    """Settings that hold their secrets, since their files may be root's alone."""
    from pgkeep.cli.session import identity_text
    from pgkeep.cli.store_settings import store_names

    stores = {name for name in store_names(settings) if BY_NAME[name].secret}
    read = {name: getattr(settings, name) for name in ("passphrase", "host_key", *stores)}
    read["identity"] = identity_text(settings)
    mirrors = {}
    for name, mirror in settings.mirrors.items():
        secrets = [one for one in store_names(mirror) if BY_NAME[one].secret]
        found = {one: value for one in secrets if (value := getattr(mirror, one))}
        mirrors[name] = mirror.with_changes(**found)
    changes = {name: value for name, value in read.items() if value}
    return settings.with_changes(**changes).with_mirrors(mirrors)


def _argument_files(context: Context) -> dict[str, str]:
    """Files of keys and passphrases that options name; who cannot be read now is told later."""
    texts = {}
    files = [getattr(context.args, "passphrase_file", None)]
    files += getattr(context.args, "recipients_file", None) or []
    for file in filter(None, files):
        with suppress(OSError, UnicodeDecodeError):
            texts[file] = Path(file).read_text()
    return texts


def _check_program_readable(owner: Owner) -> None:
    """Refuse a program that only root can read, before an import in the middle of it fails.

    The usual case is a Python under /root, as version managers install it. Raises ``ConfigError``.
    """
    places = [Path(os.__file__).parent, Path(__file__).parent]
    closed = [str(place) for place in places if not os.access(place, os.R_OK | os.X_OK)]
    if not closed:
        return
    try:
        name = pwd.getpwuid(owner.uid).pw_name
    except KeyError:
        name = str(owner.uid)
    raise ConfigError(
        f"pgkeep is installed where {name}, who owns the data directory, cannot read it.",
        why=f"{name} may not enter {closed[0]}; the server has to run pgkeep, too.",
        remedy="Install it with a Python that everybody can read, for example: "
        "/usr/bin/python3 -m venv /opt/pgkeep && /opt/pgkeep/bin/pip install pgkeep",
    )


def _prepare_directories(context: Context, owner: Owner) -> None:
    """What only root can make. The repository's directory is made by an ``init`` that makes a
    repository, and by nothing else: elsewhere its absence is an error, perhaps a lost mount."""
    from pgkeep.storage.open import local_path

    settings, args = context.settings, context.args
    if settings.state is not None:
        make_owned_directory(Path(settings.state), owner)
    ways = ("recipient", "recipients_file", "passphrase_file", "no_encryption")
    makes_one = any(getattr(args, way, None) for way in ways)
    urls = [settings.repo] if makes_one else []
    if args.command == "init":
        urls += [mirror.repo for mirror in settings.mirrors.values()]
    if args.command == "copy":
        urls.append(args.to)
    for url in filter(None, urls):
        with suppress(PgkeepError):  # a URL that cannot be used is refused when it is used
            make_owned_directory(Path(local_path(url)), owner)


def _from_socket(context: Context) -> Owner | None:
    host = context.environ.get("PGHOST") or context.settings.server.get("host", "")
    port = context.environ.get("PGPORT") or context.settings.server.get("port", "") or "5432"
    directories = [host] if host.startswith("/") else [] if host else [*_SOCKET_DIRECTORIES]
    for directory in directories:
        with suppress(OSError):
            path = Path(directory, f".s.PGSQL.{port}")
            found = path.lstat()
            if stat.S_ISSOCK(found.st_mode):
                return Owner(found.st_uid, found.st_gid, f"the socket {path}")
    return None


def _from_server(context: Context) -> Owner | None:
    from pgkeep.cli.session import connect_server

    try:
        with connect_server(context) as connection:
            directory = connection.value("SHOW data_directory")
        return _owner_of(Path(directory), "the server")
    except (PgkeepError, OSError):
        return None


def _from_directories(settings: Settings) -> Owner | None:
    from pgkeep.storage.open import local_path

    with suppress(OSError, PgkeepError):
        found = _owner_of(state_directory(settings, 0), "the state directory")
        if found.uid != 0:
            return found
    with suppress(OSError, PgkeepError):
        found = _owner_of(Path(local_path(settings.repo or "")), "the repository's directory")
        if found.uid != 0:
            return found
    return None


def _owner_of(path: Path, told_by: str) -> Owner:
    found = path.stat()
    return Owner(found.st_uid, found.st_gid, told_by)
