"""The files of relations: which table, which fork, which gigabyte.

A relation's main fork is a file named after its relfilenode, ``16384``; other forks add a
name, ``16384_fsm``; every segment after the first adds a number, ``16384_fsm.3``
(``src/common/relpath.c``, ``parse_filename_for_nontemp_relation`` in ``reinit.c``). They lie
in ``global/``, ``base/<database>/`` and ``pg_tblspc/<oid>/PG_<major>_<catalog>/<database>/``.

Only these files consist of pages with checksums. ``pg_checksums`` decides the other way
round, by a list of files to skip; the result is the same, and a file that an extension drops
into a database directory is not mistaken for damaged pages.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_NAME = re.compile(r"([1-9][0-9]{0,9})(?:_(fsm|vm|init))?(?:\.([1-9][0-9]{0,9}))?", re.ASCII)
_TEMPORARY = re.compile(r"t[0-9]+_[0-9]+(?:_(?:fsm|vm|init))?(?:\.[0-9]+)?", re.ASCII)
_DATABASE_DIRECTORY = re.compile(
    r"base/(?P<base>[0-9]+)|pg_tblspc/(?P<space>[0-9]+)/PG_[0-9]+_[0-9]+/(?P<db>[0-9]+)", re.ASCII
)
_MAX_OID = 0xFFFFFFFF

GLOBAL_DIRECTORY = "global"


class RelationFile(NamedTuple):
    """One file of a relation. ``fork`` is ``main``, ``fsm``, ``vm`` or ``init``.

    ``database`` is 0 for shared relations in ``global/``; ``tablespace`` is None where the
    default tablespaces are meant; ``segment`` counts from 0.
    """

    database: int
    relfilenode: int
    fork: str
    segment: int
    tablespace: int | None

    def first_block(self, relation_segment_blocks: int) -> int:
        """The number of this file's first block in its fork, as page checksums count it."""
        return self.segment * relation_segment_blocks


def parse_relation_path(relative_path: str) -> RelationFile | None:
    """Read a path relative to the data directory; None if it is no permanent relation's."""
    directory, _, name = relative_path.rpartition("/")
    file = parse_relation_name(name)
    if file is None:
        return None
    if directory == GLOBAL_DIRECTORY:
        return file
    match = _DATABASE_DIRECTORY.fullmatch(directory)
    if match is None:
        return None
    if match["base"]:
        return file._replace(database=int(match["base"]))
    return file._replace(database=int(match["db"]), tablespace=int(match["space"]))


def parse_relation_name(name: str) -> RelationFile | None:
    """Read a bare file name, with ``database`` 0; None if it is not a relation's."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    relfilenode, segment = int(match[1]), int(match[3] or 0)
    if relfilenode > _MAX_OID or segment > _MAX_OID:
        return None
    return RelationFile(0, relfilenode, match[2] or "main", segment, None)


def database_of(relative_path: str) -> int | None:
    """The OID of the database in whose directory a path lies, or whose directory it is."""
    parts = relative_path.split("/")
    match = _DATABASE_DIRECTORY.fullmatch("/".join(parts[: 2 if parts[0] == "base" else 4]))
    return None if match is None else int(match["base"] or match["db"])


def is_temporary_relation(name: str) -> bool:
    """Whether a name is that of a temporary table, ``t<backend>_<relfilenode>``…"""
    return _TEMPORARY.fullmatch(name) is not None


def is_database_directory(relative_dir: str) -> bool:
    """Whether a directory holds one database's relations."""
    return _DATABASE_DIRECTORY.fullmatch(relative_dir) is not None


def is_relation_directory(relative_dir: str) -> bool:
    """Whether a directory holds relations: ``global`` or a database's."""
    return relative_dir == GLOBAL_DIRECTORY or is_database_directory(relative_dir)
