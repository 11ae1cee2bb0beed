"""What a dump consists of: its ``contents`` record, sealed, written last (format, section 9).

Everything that ``list``, ``fetch`` and ``restore`` need stands in it, so none of them opens a file
to find out what it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pgkeep.errors import DamagedObject
from pgkeep.repository.record import member
from pgkeep.units import from_utc_text

GLOBALS, SETTINGS, HBA, IDENT = "globals", "settings", "hba", "ident"
CREATE, DATABASE = "create", "database"
KINDS = (GLOBALS, SETTINGS, HBA, IDENT, CREATE, DATABASE)
CUSTOM, DIRECTORY, PLAIN = "custom", "directory", "plain"


@dataclass(frozen=True)
class Part:
    """One stored object of a file; ``name`` is its name in the dump's folder."""

    name: str
    size_bytes: int
    blake3: str


@dataclass(frozen=True)
class DumpFile:
    """A file of a dump. ``name`` is what it is called when it was fetched, and its parts joined
    are it, sealed. ``database`` is None for what concerns the whole cluster; ``format`` and
    ``compression`` are pg_dump's."""

    name: str
    kind: str
    plain_bytes: int
    parts: tuple[Part, ...]
    database: str | None = None
    format: str | None = None
    compression: str | None = None

    @property
    def size_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)


@dataclass(frozen=True)
class Missing:
    """What is not in a dump although it was wanted, and why; ``database`` None: the cluster's."""

    database: str | None
    what: str
    why: str


@dataclass(frozen=True)
class Step:
    """One thing that was done: with which program, for how long, and how it ended."""

    name: str
    database: str | None
    program: str
    seconds: float
    exit_code: int
    said: str = ""


@dataclass(frozen=True)
class Contents:
    """A dump. Moments are UTC text. ``databases`` are facts of each that is in it (see
    ``dump/databases.py``), ``facts`` those of the server."""

    dump: str
    cluster: str
    system_identifier: str
    started: str
    ended: str
    seconds: float
    postgres: str
    postgres_major: int
    program: str
    host: str
    role: str
    note: str
    pgkeep: str
    source: str
    files: tuple[DumpFile, ...] = ()
    databases: tuple[dict[str, Any], ...] = ()
    skipped: tuple[str, ...] = ()
    missing: tuple[Missing, ...] = ()
    steps: tuple[Step, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_complete(self) -> bool:
        return not self.missing

    @property
    def scope(self) -> str:
        """What it was narrowed to when it was made, as text; empty for all of the server as it
        was. Only dumps of one scope can stand in for each other."""
        chosen = str(self.facts.get("scope") or "")
        return chosen if self.source == "server" else f"{chosen} from a backup".strip()

    @property
    def stored_bytes(self) -> int:
        return sum(file.size_bytes for file in self.files)

    @property
    def moment(self) -> datetime:
        return from_utc_text(self.ended)

    @property
    def database_names(self) -> list[str]:
        return [file.database for file in self.files if file.kind == DATABASE and file.database]

    def file(self, kind: str, database: str | None = None) -> DumpFile | None:
        """The file of this kind, of a database if it is one of those."""
        found = (one for one in self.files if (one.kind, one.database) == (kind, database))
        return next(found, None)

    def facts_of(self, database: str) -> dict[str, Any]:
        """What was recorded of a database; empty if it is not in it."""
        return next((one for one in self.databases if one.get("name") == database), {})

    def members(self) -> dict[str, Any]:
        """As the members of a record."""
        return asdict(self)


def parse_contents(members: Mapping[str, Any], key: str) -> Contents:
    """The dump that a record stored as ``key`` describes. Raises ``DamagedObject``."""
    texts = {name: member(members, name, str, name=key) for name in _TEXTS}
    rows = {name: _rows(members, name, key) for name in ("files", "missing", "steps", "databases")}
    found = Contents(
        **texts,
        seconds=float(_number(members, "seconds", key)),
        postgres_major=member(members, "postgres_major", int, name=key),
        files=tuple(_file(row, key) for row in rows["files"]),
        databases=tuple(_named(row, key) for row in rows["databases"]),
        skipped=tuple(map(str, member(members, "skipped", list, name=key))),
        missing=tuple(_made(Missing, row, key) for row in rows["missing"]),
        steps=tuple(_made(Step, row, key) for row in rows["steps"]),
        facts=member(members, "facts", dict, name=key),
    )
    parts = key.split("/")
    if parts[-5:-1] != [found.cluster, found.system_identifier, "dumps", found.dump]:
        raise DamagedObject(
            f"{key} is the dump {found.dump} of {found.cluster} ({found.system_identifier}), "
            "in the wrong place.",
            remedy="Restore this object from a copy of the repository.",
            object=key,
        )
    try:
        from_utc_text(found.started), from_utc_text(found.ended)
    except ValueError as error:
        raise _damaged(key, f"its moments are malformed ({error})") from error
    return found


_TEXTS = (
    *("dump", "cluster", "system_identifier", "started", "ended", "postgres", "program"),
    *("host", "role", "note", "pgkeep", "source"),
)


def _file(row: dict[str, Any], key: str) -> DumpFile:
    parts = tuple(_made(Part, part, key) for part in _rows(row, "parts", key))
    found: DumpFile = _made(DumpFile, {**row, "parts": parts}, key)
    names = [found.name, *(part.name for part in parts)]
    # They become keys, and names of local files.
    if found.kind not in KINDS or not parts or not all(map(_is_plain_name, names)):
        raise _damaged(key, "it names a file that cannot be")
    if min(part.size_bytes for part in parts) < 0:
        raise _damaged(key, "it names impossible sizes")
    return found


def _is_plain_name(name: str) -> bool:
    from pgkeep.errors import StoreError
    from pgkeep.storage.interface import check_key

    try:
        return "/" not in check_key(name)
    except StoreError:
        return False


def _named(row: dict[str, Any], key: str) -> dict[str, Any]:
    member(row, "name", str, name=key)
    return row


def _rows(members: Mapping[str, Any], name: str, key: str) -> list[dict[str, Any]]:
    rows = member(members, name, list, name=key)
    if not all(isinstance(row, dict) for row in rows):
        raise _damaged(key, f"its {name} are malformed")
    return rows


def _number(members: Mapping[str, Any], name: str, key: str) -> float:
    value = members.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _damaged(key, f"its {name} is no number")
    return value


def _made(kind: type[Any], row: Mapping[str, Any], key: str) -> Any:
    """A row as its class; members of later versions are ignored, each other must be of its type."""
    types = {name: one.type for name, one in kind.__dataclass_fields__.items()}
    found = {name: value for name, value in row.items() if name in types}
    checks: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "str | None": (str, type(None)),
    }
    for name, value in found.items():
        wanted = checks.get(types[name])
        if wanted is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
            raise _damaged(key, f"the {name} of one of its rows is malformed")
    try:
        return kind(**found)
    except TypeError as error:
        raise _damaged(key, "a row of it is not whole") from error


def _damaged(key: str, why: str) -> DamagedObject:
    return DamagedObject(f"{key} is damaged: {why}.", object=key)
