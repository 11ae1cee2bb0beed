"""Streams share a pool of buffers, and get through a store that is slow or fails for a while."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from pgkeep.errors import StoreFull
from pgkeep.repository.dump_files import PART_BYTES, FileWriter, Uploads, read_file
from pgkeep.repository.dump_record import DATABASE, DumpFile
from pgkeep.seal.age_file import SEALED_CHUNK_BYTES
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.interface import Buffer
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.retry import RetryingStore
from tests.dump.kit import Bench, repository_in_memory
from tests.servers import PgServer

FOLDER = "main/1/dumps/d/"
SMALL_PART = 2 * SEALED_CHUNK_BYTES


class SlowStore(MemoryStore):
    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        time.sleep(0.002)
        return super().put(key, data, if_absent=if_absent)


class Nowhere(MemoryStore):
    """Keeps the small objects only."""

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        return "etag" if "/dumps/" in key else super().put(key, data, if_absent=if_absent)


def test_memory_does_not_grow_with_the_dump() -> None:
    repository = repository_in_memory(sealed=True)._replace(store=Nowhere())
    block = bytes(1 << 20)
    tracemalloc.start()
    try:
        with Uploads(repository, FOLDER) as uploads:
            writer = FileWriter(uploads, "x")
            for _ in range(320):
                writer.write(block)
            assert len(writer.finish()) == 11
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * PART_BYTES + (8 << 20)


def test_many_streams_over_a_slow_store_wait_for_each_other_and_never_for_ever() -> None:
    repository = repository_in_memory(sealed=True)._replace(store=SlowStore())
    contents = [os.urandom(900_000 + number) for number in range(6)]

    def write(number: int) -> DumpFile:
        writer = FileWriter(uploads, f"f{number}")
        for at in range(0, len(contents[number]), 70_000):
            writer.write(contents[number][at : at + 70_000])
        return DumpFile(f"f{number}", DATABASE, 0, writer.finish())

    with (
        Uploads(repository, FOLDER, streams=6, part_bytes=SMALL_PART) as uploads,
        ThreadPoolExecutor(6) as pool,
    ):
        files = list(pool.map(write, range(6)))
    for number, file in enumerate(files):
        pieces = read_file(repository, FOLDER, file)
        assert b"".join(map(bytes, pieces)) == contents[number]


def test_a_stream_that_is_given_up_returns_its_buffer_and_an_error_ends_the_others() -> None:
    store = FaultyStore(MemoryStore(), [Fault(Failure.FULL, "put", "*/bad*")])
    repository = repository_in_memory(sealed=False)._replace(store=store)
    uploads = Uploads(repository, FOLDER, part_bytes=SMALL_PART)
    for _ in range(10):
        FileWriter(uploads, "given up").abandon()

    def fill() -> None:
        with uploads:
            writer = FileWriter(uploads, "bad")
            try:
                for _ in range(100):
                    writer.write(bytes(SMALL_PART))
                writer.finish()
            finally:
                writer.abandon()

    with pytest.raises(StoreFull):
        fill()
    assert not [one for one in threading.enumerate() if one.name.startswith("dump-upload")]


@pytest.mark.majors(18)
def test_an_outage_in_the_middle_is_got_through(server: PgServer) -> None:
    inner = FaultyStore(MemoryStore())
    bench = Bench(server, RetryingStore(inner, deadline_seconds=30))
    for name in ("globals.sql.age", "postgres.dump.age", "contents", "begun"):
        inner.fail(Fault(Failure.LOST_ANSWER, "put", f"*/dumps/*/{name}"))
        inner.fail(Fault(Failure.UNAVAILABLE, "put", f"*/dumps/*/{name}"))
    made = bench.dump()
    assert made.is_complete
    assert [one.id for one in bench.dumps().dumps] == [made.dump]
    other = PgServer.create(server.installation)
    with other:
        bench.restore(made, other)
