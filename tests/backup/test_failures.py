"""When something fails in the middle, everything ends soon, with the error that it was."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pgkeep.backup import copy
from pgkeep.backup.throttle import RateLimit
from pgkeep.errors import ObjectExists, StoreDenied, StoreFull, StoreUnavailable
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.interface import Buffer
from pgkeep.storage.memory import MemoryStore
from tests.backup.scratch import RUN, Hook, Scratch

SOON = 10.0


def many_packs(scratch: Scratch) -> None:
    """Enough that does not compress for ten packs."""
    block = os.urandom(4 * RUN)
    for number in range(40):
        scratch.write(f"file-{number}", bytes([number]) * 8 + block + os.urandom(4 * RUN))


@pytest.mark.parametrize(
    ("failure", "error"), [(Failure.FULL, StoreFull), (Failure.DENIED, StoreDenied)]
)
def test_what_the_store_says_reaches_the_user(
    tmp_path: Path, failure: Failure, error: type[Exception]
) -> None:
    faulty = FaultyStore(MemoryStore(), [Fault(failure, "put", "*/packs/*", skip=1)])
    scratch = Scratch(tmp_path, store=faulty)
    many_packs(scratch)
    with pytest.raises(error):
        scratch.copy()
    assert not [*scratch.repository.store.list("main/7710300270422693827/manifests")]
    assert no_threads_left()


def test_a_pack_that_is_there_already_is_an_error(tmp_path: Path) -> None:
    """Nothing is overwritten (invariant 4)."""
    faulty = FaultyStore(MemoryStore(), [Fault(Failure.LOST_ANSWER, "put", "*/packs/*")])
    scratch = Scratch(tmp_path, store=faulty)
    scratch.write("file", b"content")
    with pytest.raises(StoreUnavailable):
        scratch.copy()
    with pytest.raises(ObjectExists):
        scratch.copy()


class StuckStore(MemoryStore):
    """Stores no pack until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.let = threading.Semaphore(0), threading.Event()

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        if "/packs/" in key:
            self.reached.release()
            assert self.let.wait(60)
        return super().put(key, data, if_absent=if_absent)


def test_a_worker_that_waits_for_a_buffer_hears_of_anothers_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "_KEEPALIVE_SECONDS", 0.05)
    store = StuckStore()
    scratch = Scratch(tmp_path, store=store)
    many_packs(scratch)
    outcome: list[BaseException] = []
    broken = threading.Event()

    def keepalive() -> None:
        if broken.is_set():
            raise ServerGone

    def run() -> None:
        try:
            scratch.copy()
        except BaseException as error:
            outcome.append(error)

    scratch.keepalive = keepalive
    thread = threading.Thread(target=run)
    thread.start()
    for _ in range(2):  # both workers have handed a pack over, and fill or wait
        assert store.reached.acquire(timeout=60)
    broken.set()
    wait_for(lambda: not any_thread("copy"))
    assert thread.is_alive()  # it waits for the store, which has what it was given
    store.let.set()
    thread.join(60)
    assert [type(error) for error in outcome] == [ServerGone]
    assert no_threads_left()


def test_an_interrupt_ends_a_copy_that_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a thousandth of the speed, workers sleep nearly always."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    scratch = Scratch(tmp_path, rate=RateLimit(1000), keepalive=interrupt)
    many_packs(scratch)
    monkeypatch.setattr(copy, "_KEEPALIVE_SECONDS", 0.3)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        scratch.copy()
    assert time.monotonic() - began < SOON
    assert no_threads_left()


def test_an_interrupt_while_workers_are_started_ends_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(ThreadPoolExecutor):
        def submit(self, *arguments: Any, **more: Any) -> Any:
            if self._threads:
                raise KeyboardInterrupt
            return super().submit(*arguments, **more)

    scratch = Scratch(tmp_path, rate=RateLimit(1000))
    many_packs(scratch)
    monkeypatch.setattr(copy, "ThreadPoolExecutor", Interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        scratch.copy()
    assert time.monotonic() - began < SOON
    assert no_threads_left()


def test_the_session_is_kept_alive_from_the_thread_that_began_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copy, "_KEEPALIVE_SECONDS", 0.01)
    callers: list[int] = []
    enough = threading.Event()

    def keepalive() -> None:
        callers.append(threading.get_ident())
        if len(callers) > 3:
            enough.set()

    scratch = Scratch(tmp_path, keepalive=keepalive, listener=Hook(lambda number: enough.wait(60)))
    scratch.write("file", b"content")
    scratch.copy()
    assert set(callers) == {threading.get_ident()}
    assert len(callers) > 3


def test_an_error_of_a_listener_is_no_success(tmp_path: Path) -> None:
    def fail(number: int) -> None:
        if number == 5:
            raise ServerGone

    scratch = Scratch(tmp_path, listener=Hook(fail))
    many_packs(scratch)
    with pytest.raises(ServerGone):
        scratch.copy()
    assert no_threads_left()


class ServerGone(Exception):
    pass


def any_thread(prefix: str) -> bool:
    return any(thread.name.startswith(prefix) for thread in threading.enumerate())


def no_threads_left() -> bool:
    return not any_thread("copy") and not any_thread("store")


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + SOON
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)
