"""Copying WAL into the restored directory, so that a plain image recovers without pgkeep.

``pgkeep_wal`` holds the plan's segments, every history file of the cluster (the server must not
choose a timeline number that is taken) and a list. The restore command asks the list first: what is
not in it is positively absent, and anything else that goes wrong stops the server. (With a bare
``cp`` one unreadable segment ended recovery early, and the server promoted without the rest.)
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pgkeep.errors import DamagedObject
from pgkeep.postgres.exclusions import COPIED_WAL_DIRECTORY
from pgkeep.postgres.segment import check_segment, parse_segment_header
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.wal_plan import WalPlan
from pgkeep.restore.extras import Extras
from pgkeep.restore.search import read_wal_file
from pgkeep.restore.steering import LIST_FILE


def history_files(repository: Repository, layout: Layout) -> list[str]:
    """The names of all stored history files."""
    return [info.key.rpartition("/")[2] for info in repository.store.list(layout.history)]


def copy_wal(
    extras: Extras,
    repository: Repository,
    layout: Layout,
    plan: WalPlan,
    *,
    segment_size: int,
    jobs: int,
    advance: Callable[[int], None],
) -> None:
    """Write everything that recovery may ask for, and the list last.

    Raises ``DamagedObject``, ``ForeignWal``, ``LocalIOError``, and what the store raises.
    """
    segments = list(plan.segments(segment_size))
    names = sorted({*history_files(repository, layout), *plan.histories}) + segments

    def copy(name: str) -> None:
        content = read_wal_file(repository, layout, name)
        if not name.endswith(".history"):
            _check(content, name, layout.system_identifier, segment_size)
        extras.write(f"{COPIED_WAL_DIRECTORY}/{name}", content)
        advance(len(content))

    extras.write(f"{COPIED_WAL_DIRECTORY}/{LIST_FILE}", b"")  # makes the directory
    with ThreadPoolExecutor(jobs, thread_name_prefix="wal") as pool:
        for _ in pool.map(copy, names):
            pass
    listing = "".join(f"{name}\n" for name in names)
    extras.write_text(f"{COPIED_WAL_DIRECTORY}/{LIST_FILE}", listing)


def _check(content: bytes, name: str, system_identifier: int, segment_size: int) -> None:
    if len(content) != segment_size:
        raise DamagedObject(
            f"The stored segment {name} has {len(content)} bytes instead of {segment_size}.",
            remedy="Bring it back from a copy of the repository.",
        )
    check_segment(
        parse_segment_header(content),
        name,
        system_identifier=system_identifier,
        segment_size=segment_size,
        allow_unknown_magic=True,
    )
