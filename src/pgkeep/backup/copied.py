"""What a copy yields for each file."""

from __future__ import annotations

from typing import NamedTuple

from pgkeep.backup.parent_maps import MapPlace
from pgkeep.backup.reader import SuspectPage
from pgkeep.backup.source import SourceFile
from pgkeep.repository.map import FileMap
from pgkeep.repository.map_rows import MapRows


class CopiedFile(NamedTuple):
    """A file that was read to its end, or need not be.

    ``map`` lacks the failed pages of this run; ``suspects`` may become some. Without a map the
    parent's stands, at ``kept``. ``hashes`` are those of all pages, 8 bytes each, zeros where one
    is not known.
    """

    file: SourceFile
    map: FileMap | MapRows | None
    suspects: tuple[SuspectPage, ...] = ()
    hashes: bytes = b""
    kept: MapPlace | None = None
    was_read: bool = True
