"""Work ahead: files that the server will ask for next, pushed in the same run.

PostgreSQL calls archive_command for one file at a time and waits for it, so starting up and
waiting for the store add up. When more files are ready, a run pushes some of them too, in parallel,
after the file that was asked for, whose success and failure this never touches. What was pushed
ahead is remembered in the state directory, and the call that asks for it is answered from
there.

A record is evidence only for the very file that was read: name, size, mtime, ctime and inode must
all be what they were, and the repository must be the same at the same place: mirrors are one
repository in many places, and what was pushed into one is not in the others. A cluster that was
rolled back behind an upload writes its segment again, under another ctime; it then meets the stored
object, and a conflict that is told.

Whether it is the same repository is asked anew, but not within a minute of the upload: that is as
if the server had asked for the file in that moment. Who puts another repository in its place
meanwhile loses no more than what was archived just before, which that one lacks anyway.

Another server may archive the same timeline (two standbys were promoted at once). Whoever is first
has it, and the other is refused; what it would store ahead of that, the rightful one would meet. So
after a conflict nothing more is pushed, and where the file that was asked for was in the repository
already, which may be the other's doing, the next one is pushed alone, to see whose it is.
"""

from __future__ import annotations

import json
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from pgkeep.archive.source import FileMark, WalSource
from pgkeep.errors import PgkeepError, WalConflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

MOST_FILES = 15
_JUST_NOW_SECONDS = 60.0
_READY = ".ready"
_MOST_BYTES = 256 << 20
_WORKERS = 4


class AheadRecords:
    """The records of one cluster in one repository: one small file each, in ``folder``.

    ``places`` says where a file is that a record speaks of; those for other places do not count.
    """

    def __init__(self, folder: Path, places: Sequence[str] = ()) -> None:
        self._folder, self._places = folder, list(places)

    @classmethod
    def of(
        cls,
        folder: Path,
        *,
        repository_id: str,
        cluster: str,
        system_identifier: int,
        places: Sequence[str],
    ) -> AheadRecords:
        """Where they lie below ``folder`` in the state directory."""
        return cls(folder / repository_id / cluster / str(system_identifier), places)

    def has(self, mark: FileMark) -> bool:
        """Whether this very file was pushed ahead."""
        try:
            found = json.loads((self._folder / mark.name).read_bytes())
            return bool(found == [*mark, self._places])
        except (OSError, ValueError):
            return False

    def has_just_now(self, mark: FileMark) -> bool:
        """Whether this very file was pushed ahead within the last minute."""
        try:
            age_seconds = time.time() - (self._folder / mark.name).stat().st_mtime
        except OSError:
            return False
        return 0 <= age_seconds < _JUST_NOW_SECONDS and self.has(mark)

    def note(self, mark: FileMark) -> None:
        """Remember a file whose upload is durable.

        Not fsynced: a record that a crash takes away costs one comparison with the store, and
        one that it leaves empty counts as none.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._folder / f".{mark.name}.{os.getpid()}.{threading.get_ident()}"
        temporary.write_text(json.dumps([*mark, self._places]))
        temporary.replace(self._folder / mark.name)

    def sweep(self, ready: Iterable[str]) -> None:
        """Forget files that the server will not ask for any more."""
        wanted = set(ready)
        try:
            found = os.listdir(self._folder)  # noqa: PTH208
        except OSError:
            return
        for name in found:
            if name not in wanted:
                (self._folder / name).unlink(missing_ok=True)


class AheadLimits(NamedTuple):
    """Bounds of one run, in seconds after its start.

    No file is begun after ``begin_seconds``, and nobody waits for one after ``end_seconds``.
    """

    begin_seconds: float = 3.0
    end_seconds: float = 8.0
    files: int = MOST_FILES


def ready_names(pgdata: str) -> list[str]:
    """Files that wait for being archived, in the order in which the server asks for them.

    That is ``ready_file_comparator`` in ``src/backend/postmaster/pgarch.c``: history files
    first, then by name. Empty when the directory cannot be read: this is only about speed.
    """
    try:
        found = os.listdir(os.path.join(pgdata, "pg_wal/archive_status"))  # noqa: PTH118, PTH208
    except OSError:
        return []
    names = [name.removesuffix(_READY) for name in found if name.endswith(_READY)]
    return sorted(names, key=lambda name: (not name.endswith(".history"), name))


def push_ahead(
    names: Iterable[str],
    push: Callable[[WalSource], object],
    *,
    pgdata: str,
    records: AheadRecords,
    segment_size: int,
    elapsed: Callable[[], float],
    first_alone: bool,
    limits: AheadLimits | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> int:
    """Push files with several threads and return how many are durable now.

    ``push`` makes one file durable or raises. ``elapsed`` tells the seconds since the start of
    the run, ``stop`` whether the server wants us gone. With ``first_alone`` the others follow only
    after the first was accepted. No error is raised: the server will ask for each of these files,
    and then be told.
    """
    bounds = limits or AheadLimits()
    queue = list(names)[: bounds.files][::-1]
    done: list[str] = []

    def work(most: int) -> None:
        for _ in range(most):
            if not queue or elapsed() >= bounds.begin_seconds or stop():
                return
            try:
                name = queue.pop()
            except IndexError:
                return
            try:
                if _push_one(os.path.join(pgdata, "pg_wal", name), push, records):  # noqa: PTH118
                    done.append(name)
            except (PgkeepError, OSError, MemoryError) as error:
                if first_alone or isinstance(error, WalConflict):
                    queue.clear()

    def run(workers: int, most: int) -> None:
        threads = [threading.Thread(target=work, args=(most,), daemon=True) for _ in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive() and elapsed() < bounds.end_seconds and not stop():
                thread.join(0.1)
        if any(thread.is_alive() for thread in threads):
            queue.clear()

    if first_alone:
        run(1, 1)
    # A file is in memory twice, plain and sealed.
    workers = min(_WORKERS, len(queue), max(1, _MOST_BYTES // (2 * segment_size)))
    run(workers, bounds.files)
    return len(done)


def _push_one(path: str, push: Callable[[WalSource], object], records: AheadRecords) -> bool:
    """False when it was pushed before. Raises what ``push`` does."""
    with WalSource(path) as source:
        if records.has(source.mark):
            return False
        push(source)
        records.note(source.mark)
    return True
