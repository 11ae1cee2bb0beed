"""A dump as files in a directory: decrypted, compared with their hashes, durable, whole or not
there."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from pgkeep.errors import DamagedObject, DirectoryNotEmpty, LocalIOError, NoSuchDump
from pgkeep.progress import Progress
from pgkeep.repository.dump_files import read_file
from pgkeep.repository.dump_record import DIRECTORY, Contents, DumpFile
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout

_COPY_BYTES = 1 << 20


def fetch_dump(
    repository: Repository,
    layout: Layout,
    contents: Contents,
    into: Path,
    *,
    databases: Collection[str] = (),
    progress: Progress,
) -> list[Path]:
    """Fetch all files, or those of the cluster and of these databases; returns their paths.

    Raises ``DirectoryNotEmpty``, ``LocalIOError``, ``NoSuchDump``, ``DamagedObject``,
    ``IdentityNeeded``.
    """
    files = chosen_files(contents, databases)
    _prepare(into)
    progress.phase(f"fetching {len(files)} files")
    progress.total(sum(file.size_bytes for file in files), len(files))
    folder = layout.dump(contents.dump)
    paths = []
    for file in files:
        pieces = read_file(repository, folder, file, advance=progress.advance)
        if file.format == DIRECTORY:
            path = into / file.name.removesuffix(".tar")
            path.mkdir(0o700)
            unpack(pieces, path, file.name)
        else:
            path = into / file.name
            with NewFile(path) as write:
                for piece in pieces:
                    write(piece)
        paths.append(path)
    sync_directory(into)
    return paths


def chosen_files(contents: Contents, databases: Collection[str]) -> Sequence[DumpFile]:
    """All of them, or those of the cluster and of these databases. Raises ``NoSuchDump``."""
    known = contents.database_names
    for name in databases:
        if name not in known:
            raise NoSuchDump(
                f"The dump {contents.dump} has no database {name!r}.",
                why=f"It has: {', '.join(known)}.",
                remedy="pgkeep dump list shows what each dump has.",
            )
    return [one for one in contents.files if not databases or one.database in (None, *databases)]


def unpack(pieces: Iterable[bytes | bytearray], directory: Path, name: str) -> None:
    """The files of a database in the directory format, from its tar archive.

    Raises ``DamagedObject`` for an archive that holds anything but plain files.
    """
    try:
        with tarfile.open(fileobj=cast("IO[bytes]", _Stream(pieces)), mode="r|") as tar:
            for info in tar:
                plain = info.isreg() and info.name and "/" not in info.name
                source = tar.extractfile(info) if plain and info.name[0] != "." else None
                if source is None:
                    raise DamagedObject(f"{name} is damaged: it holds {info.name[:80]!r}.")
                with NewFile(directory / info.name) as write:
                    while data := source.read(_COPY_BYTES):
                        write(data)
    except tarfile.TarError as error:
        raise DamagedObject(f"{name} is damaged: it is no tar archive ({error}).") from error
    sync_directory(directory)


class NewFile:
    """A new file that appears under its name when it is whole and durable."""

    def __init__(self, path: Path) -> None:
        self._path, self._begun = path, path.with_name(f"{path.name}.part")

    def __enter__(self) -> Callable[[bytes | bytearray], object]:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._file = os.fdopen(os.open(self._begun, flags, 0o600), "wb")
        return self._file.write

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
        if kind is None:
            self._begun.rename(self._path)
        else:
            self._begun.unlink(missing_ok=True)


class _Stream:
    """What ``tarfile`` reads from."""

    def __init__(self, pieces: Iterable[bytes | bytearray]) -> None:
        self._pieces: Iterator[bytes | bytearray] = iter(pieces)
        self._waiting = bytearray()

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._waiting) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._waiting += piece
        taken = len(self._waiting) if size < 0 else min(size, len(self._waiting))
        data = bytes(self._waiting[:taken])
        del self._waiting[:taken]
        return data


def sync_directory(path: Path) -> None:
    """Let the names in it be durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _prepare(into: Path) -> None:
    try:
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        is_empty = next(into.iterdir(), None) is None
    except OSError as error:
        raise LocalIOError(
            f"{into} cannot be made, or looked into.",
            why=f"{error.strerror}.",
            remedy="Name another directory.",
        ) from error
    if not is_empty:
        raise DirectoryNotEmpty(
            f"{into} is not empty, and nothing was written.",
            remedy="Name a directory that is empty, or not there yet.",
        )
