"""What the hardware allows: the same work by bare threads, with nothing around it.

``python -m bench.raw_limit backup PGDATA`` reads every file in pieces of 1 MiB; each piece is
checked and hashed page by page, compressed with zstd and encrypted with AES-256-GCM into a
buffer that is thrown away. No file is written, no server is asked, nothing is indexed.

``python -m bench.raw_limit pack PGDATA FRAMES`` writes the compressed pieces to a file, and
``python -m bench.raw_limit restore FRAMES INTO`` is the floor of a restore: decompress, hash with
BLAKE3, write, fsync each file. Each prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import pickle
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PIECE_BYTES = 1 << 20
TASK_PIECES = 16
PAGE_BYTES = 8192
SEGMENT_PAGES = (1 << 30) // PAGE_BYTES
RELATION = re.compile(r"^(?:base/\d+|global)/\d+(?:_[a-z]+)?(?:\.(\d+))?$")
SKIPPED = ("pg_wal", "pg_replslot", "pg_stat_tmp", "pg_notify", "pg_subtrans", "postmaster.pid")


@dataclass(frozen=True)
class Piece:
    """A run of one file, and where its compressed form lies in the frames file."""

    path: str
    offset: int
    length: int
    stored_at: int = -1
    stored_bytes: int = 0


@dataclass(frozen=True)
class Result:
    """``page_scan`` tells how pages were checked and hashed in this run."""

    seconds: float
    raw_bytes: int
    stored_bytes: int
    page_scan: str

    def show(self) -> None:
        print(json.dumps(asdict(self) | {"bytes_per_second": self.raw_bytes / self.seconds}))


def list_pieces(pgdata: Path) -> list[Piece]:
    """Every file that a base backup copies, in pieces."""
    pieces = []
    for folder, folders, files in os.walk(pgdata):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for name in sorted(files):
            if name in SKIPPED:
                continue
            path = Path(folder) / name
            size = path.stat().st_size
            relative = str(path.relative_to(pgdata))
            pieces += [
                Piece(relative, offset, min(PIECE_BYTES, size - offset))
                for offset in range(0, max(size, 1), PIECE_BYTES)
            ]
    return pieces


Scan = Callable[[memoryview, Piece], object]


def page_scanner() -> tuple[Scan, str]:
    """The page check and hash of pgkeep itself; a plain BLAKE3 where it is not installed."""
    try:
        from pgkeep.postgres.page import implementation_name, scan_pages
    except ImportError:
        from blake3 import blake3

        return lambda data, piece: blake3(data).digest(), "BLAKE3 of each piece, no page checksum"

    def scan(data: memoryview, piece: Piece) -> object:
        relation = RELATION.search(piece.path)
        segment = int(relation.group(1) or 0) if relation else 0
        first_block = segment * SEGMENT_PAGES + piece.offset // PAGE_BYTES
        return scan_pages(data, key=bytes(32), first_block=first_block, verify=relation is not None)

    return scan, f"page checksums and page hashes ({implementation_name()})"


def page_writer() -> Callable[[int, memoryview, int], object]:
    """How pgkeep writes, past the page cache; through it where it is not installed."""
    try:
        from pgkeep.storage.direct import write_at
    except ImportError:
        return os.pwrite
    return write_at


def run_backup(
    pgdata: Path, *, threads: int, level: int, sink: Callable[[Piece, bytes], None] | None = None
) -> Result:
    """Read, check, hash, compress, encrypt everything; ``sink`` gets pieces before encryption."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from zstandard import ZstdCompressor

    scan, scan_name = page_scanner()
    local = threading.local()
    key = bytes(32)

    def work(task: list[Piece]) -> tuple[int, int]:
        if not hasattr(local, "buffer"):
            local.buffer = bytearray(PIECE_BYTES)
            local.sealed = bytearray(PIECE_BYTES * 2)
            local.zstd = ZstdCompressor(level=level)
            local.gcm = AESGCM(key)
        raw = stored = 0
        with _Opened() as opened:
            for piece in task:
                view = memoryview(local.buffer)[: piece.length]
                length = os.preadv(opened(pgdata / piece.path), [view], piece.offset)
                view = view[:length]
                if length:
                    scan(view, piece)
                packed = local.zstd.compress(view)
                if sink is None:
                    target = memoryview(local.sealed)[: len(packed) + 16]
                    local.gcm.encrypt_into(os.urandom(12), packed, b"raw", target)
                else:
                    sink(piece, packed)
                raw += length
                stored += len(packed)
        return raw, stored

    pieces = list_pieces(pgdata)
    start = time.monotonic()
    raw, stored = _spread(work, _tasks(pieces), threads=threads)
    return Result(time.monotonic() - start, raw, stored, scan_name)


def run_pack(pgdata: Path, frames: Path, *, threads: int, level: int) -> Result:
    """Write the compressed pieces and their index, for :func:`run_restore`."""
    lock = threading.Lock()
    index: list[Piece] = []
    with frames.open("wb") as file:

        def sink(piece: Piece, packed: bytes) -> None:
            with lock:
                place = file.tell()
                file.write(packed)
                index.append(Piece(piece.path, piece.offset, piece.length, place, len(packed)))

        result = run_backup(pgdata, threads=threads, level=level, sink=sink)
    index.sort(key=lambda piece: (piece.path, piece.offset))
    frames.with_suffix(".index").write_bytes(pickle.dumps([asdict(piece) for piece in index]))
    return result


def run_restore(frames: Path, into: Path, *, threads: int) -> Result:
    """Decompress, hash, write and fsync every file."""
    from blake3 import blake3
    from zstandard import ZstdDecompressor

    index = [Piece(**row) for row in pickle.loads(frames.with_suffix(".index").read_bytes())]
    for folder in {Path(piece.path).parent for piece in index}:
        (into / folder).mkdir(parents=True, exist_ok=True)
    write = page_writer()
    source = os.open(frames, os.O_RDONLY)
    local = threading.local()
    left = _Counter(index)

    def work(task: list[Piece]) -> tuple[int, int]:
        if not hasattr(local, "zstd"):
            local.zstd = ZstdDecompressor()
            local.buffer = mmap.mmap(-1, PIECE_BYTES)
        raw = stored = 0
        with _Opened(os.O_WRONLY | os.O_CREAT) as opened:
            for piece in task:
                packed = os.pread(source, piece.stored_bytes, piece.stored_at)
                data = memoryview(local.buffer)[: piece.length]
                _fill(local.zstd.stream_reader(packed), data)
                blake3(data).digest()
                target = opened(into / piece.path)
                write(target, data, piece.offset)
                raw += len(data)
                stored += len(packed)
                if left.done(piece.path):
                    os.fsync(target)
        return raw, stored

    start = time.monotonic()
    # Direct writes wait for the device: twice the threads keep the processors busy meanwhile.
    raw, stored = _spread(work, _FilesApart(_tasks(index)), threads=2 * threads)
    for folder in {Path(piece.path).parent for piece in index}:
        descriptor = os.open(into / folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    return Result(time.monotonic() - start, raw, stored, "BLAKE3 of each piece")


def _fill(reader: Any, target: memoryview) -> None:
    """Decompress into a buffer that is used again; a new one for each piece costs page faults."""
    filled = 0
    while filled < len(target):
        count = reader.readinto(target[filled:])
        if not count:
            raise ValueError("a frame is shorter than its index says")
        filled += count


class _Opened:
    """Keeps the file of the last piece open, since the next is usually of the same."""

    def __init__(self, flags: int = os.O_RDONLY) -> None:
        self._flags = flags
        self._path: Path | None = None
        self._descriptor = -1

    def __call__(self, path: Path) -> int:
        if path != self._path:
            self.__exit__()
            self._descriptor = os.open(path, self._flags, 0o600)
            self._path = path
        return self._descriptor

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None:
            os.close(self._descriptor)
            self._path = None


class _Counter:
    """Tells which thread writes the last piece of a file, for that one syncs it."""

    def __init__(self, pieces: list[Piece]) -> None:
        self._lock = threading.Lock()
        self._left: dict[str, int] = {}
        for piece in pieces:
            self._left[piece.path] = self._left.get(piece.path, 0) + 1

    def done(self, path: str) -> bool:
        with self._lock:
            self._left[path] -= 1
            return self._left[path] == 0


def _tasks(pieces: list[Piece]) -> Iterator[list[Piece]]:
    for first in range(0, len(pieces), TASK_PIECES):
        yield pieces[first : first + TASK_PIECES]


class _FilesApart(Iterator[list[Piece]]):
    """Hands each thread tasks of a file of its own while there are files left.

    Two threads that write into one file wait for its lock in the kernel, busily: that took two
    to eight times the CPU of writing into two.
    """

    def __init__(self, tasks: Iterator[list[Piece]]) -> None:
        files: dict[str, list[list[Piece]]] = {}
        for task in tasks:
            files.setdefault(task[0].path, []).append(task)
        # The last of a list is taken first: the largest file, and within it the lowest offset.
        self._free = sorted((task[::-1] for task in files.values()), key=len)
        self._taken: dict[int, list[list[Piece]]] = {}

    def __next__(self) -> list[Piece]:
        mine = self._taken.get(threading.get_ident())
        if not mine:
            mine = (
                self._free.pop() if self._free else max(self._taken.values(), key=len, default=[])
            )
            self._taken[threading.get_ident()] = mine
        if not mine:
            raise StopIteration
        return mine.pop()


def _spread(
    work: Callable[[list[Piece]], tuple[int, int]], tasks: Iterator[list[Piece]], *, threads: int
) -> tuple[int, int]:
    lock = threading.Lock()

    def drain(_: int) -> tuple[int, int]:
        raw = stored = 0
        while True:
            with lock:
                task = next(tasks, None)
            if task is None:
                return raw, stored
            task_raw, task_stored = work(task)
            raw += task_raw
            stored += task_stored

    with ThreadPoolExecutor(threads) as pool:
        sums = list(pool.map(drain, range(threads)))
    return sum(raw for raw, _ in sums), sum(stored for _, stored in sums)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.raw_limit", description=__doc__)
    parser.add_argument("what", choices=["backup", "pack", "restore"])
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--level", type=int, default=3)
    chosen: Any = parser.parse_args(arguments)
    if chosen.what == "backup":
        run_backup(chosen.source, threads=chosen.threads, level=chosen.level).show()
    elif chosen.what == "pack":
        run_pack(chosen.source, chosen.target, threads=chosen.threads, level=chosen.level).show()
    else:
        run_restore(chosen.source, chosen.target, threads=chosen.threads).show()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
