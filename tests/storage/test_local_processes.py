"""Processes that share a directory, and processes that are killed, see and leave whole objects."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from pgkeep.storage.local import LocalStore

_WRITE_FOR_EVER = """
import sys
from hashlib import sha256
from os import urandom
from pgkeep.storage.local import LocalStore
store = LocalStore(sys.argv[1])
print("ready", flush=True)
for number in range(10**9):
    pieces = [urandom(200_000) for _ in range(10)]
    name = sha256(b"".join(pieces)).hexdigest()
    store.put(f"objects/{number % 7}/{name}", pieces, if_absent=number % 2 == 0)
    store.put("one", name.encode() * 5000)
    print(name, flush=True)
"""

_CREATE = """
import json, sys
from pgkeep.errors import ObjectExists
from pgkeep.storage.local import LocalStore
store = LocalStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
won = []
for number in range(int(sys.argv[3])):
    try:
        store.put(f"race/{number % 5}/{number}", sys.argv[2].encode() * 10_000, if_absent=True)
        won.append(number)
    except ObjectExists:
        assert len(store.get(f"race/{number % 5}/{number}")) == 10_000
print(json.dumps(won), flush=True)
"""

_COUNT = """
import sys
from pgkeep.errors import PreconditionFailed
from pgkeep.storage.local import LocalStore
store = LocalStore(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
done = 0
while done < int(sys.argv[3]):
    etag = store.head("counter").etag
    value = int(store.get("counter"))
    try:
        store.replace("counter", b"%06d" % (value + 1), etag=etag)
        done += 1
    except PreconditionFailed:
        pass
print(done, flush=True)
"""


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "repository", create=True)
    store.put("first", b"x")
    return store


@contextmanager
def _running(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def _race(program: str, store: LocalStore, *, processes: int, turns: int) -> list[str]:
    """Start them, let them go at once, return the last line of each."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(_running(program, store.root, str(number), str(turns)))
            for number in range(processes)
        ]
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [process.communicate(timeout=120)[0].strip() for process in running]


@pytest.mark.parametrize("seed", range(25))
def test_a_killed_writer_leaves_no_partial_object(store: LocalStore, seed: int) -> None:
    delay = random.Random(seed).uniform(0, 0.12)
    with _running(_WRITE_FOR_EVER, store.root) as process:
        time.sleep(delay)  # not to wait for something: this is the random moment
        process.kill()
        acknowledged = process.communicate()[0].split()
    whole = set()
    for info in store.list("objects/"):
        content = store.get(info.key)
        name = info.key.rpartition("/")[2]
        assert sha256(content).hexdigest() == name
        assert info.size_bytes == len(content) == 2_000_000
        whole.add(name)
    # The last line may have been cut short by the kill.
    assert {name for name in acknowledged if len(name) == 64} <= whole
    if store.exists("one"):
        content = store.get("one")
        assert content == content[:64] * 5000
    assert {info.key.split("/")[0] for info in store.list()} <= {"first", "objects", "one"}


def test_of_eight_processes_exactly_one_creates(store: LocalStore) -> None:
    turns = 30
    lines = _race(_CREATE, store, processes=8, turns=turns)
    won: dict[int, list[int]] = {number: [] for number in range(turns)}
    for process, line in enumerate(lines):
        for number in json.loads(line):
            won[number].append(process)
    for number, winners in won.items():
        assert len(winners) == 1
        assert store.get(f"race/{number % 5}/{number}") == str(winners[0]).encode() * 10_000


def test_no_swap_is_lost_among_processes(store: LocalStore) -> None:
    store.put("counter", b"%06d" % 0)
    _race(_COUNT, store, processes=4, turns=25)
    assert store.get("counter") == b"000100"
