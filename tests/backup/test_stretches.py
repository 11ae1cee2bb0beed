"""Several threads read one file when there is nothing else to do, and it is as if one had
(invariant 11)."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from pgkeep.backup import stretches
from tests.backup.chain import RELATION, Chain, change, restored
from tests.backup.scratch import PAGE, RUN, Hook


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """Two threads, which share what is longer than 2 MiB."""
    monkeypatch.setattr(stretches, "SPLIT_BYTES", 2 * RUN)
    return Chain(tmp_path, checksums=False, jobs=2)


class Together:
    """Lets no thread go on before two have read something."""

    def __init__(self, then: object = None) -> None:
        self.threads: set[int] = set()
        self._then, self._both = then, threading.Event()

    def __call__(self, number: int) -> None:
        self.threads.add(threading.get_ident())
        if len(self.threads) == 2 and not self._both.is_set():
            if callable(self._then):
                self._then()
            self._both.set()
        assert self._both.wait(30), "one thread alone reads all of it"


def test_what_is_left_of_the_only_file_is_shared(chain: Chain) -> None:
    path = chain.write(RELATION, os.urandom(16 * RUN + 777))
    chain.run()
    change(path, random.Random(1).sample(range(2048), 300))
    both = Together()
    chain.listener = Hook(both)
    backup = chain.run()
    assert len(both.threads) == 2
    assert restored(backup) == chain.content()
    assert backup.head["kind"] == "incremental"
    backup.check_everything()
    chain.listener = Hook()
    assert chain.run().head["added_bytes"] == 0, "the hashes are those of all pages, in order"


def test_a_file_that_no_backup_has_is_shared_too(chain: Chain) -> None:
    chain.write(RELATION, os.urandom(16 * RUN + 777))
    both = Together()
    chain.listener = Hook(both)
    backup = chain.run()
    assert len(both.threads) == 2
    assert restored(backup) == chain.content()
    backup.check_everything()
    chain.listener = Hook()
    assert chain.run().head["added_bytes"] == 0, "the hashes are those of all pages, in order"


@pytest.mark.parametrize("left", [0, 5000, 2 * RUN, 3 * RUN + 100, 12 * RUN + 100, 15 * RUN])
def test_a_new_file_that_is_cut_off_while_two_read_it_restores_to_what_both_saw(
    chain: Chain, left: int
) -> None:
    """What one saw behind the cut stays, and zeros stand between; WAL has the truncation."""
    path = chain.write(RELATION, os.urandom(16 * RUN))
    content = path.read_bytes()
    chain.listener = Hook(Together(then=lambda: os.truncate(path, left)))
    backup = chain.run()
    found = backup.content(RELATION)
    assert found[: min(left, RUN)] == content[: min(left, RUN)]
    for at in range(0, len(found), PAGE):
        page = found[at : at + PAGE]
        assert page in (content[at : at + len(page)], bytes(len(page)))
    backup.check_everything()
    chain.listener = Hook()
    assert restored(chain.run()) == chain.content()


def test_a_file_that_nobody_changed_is_shared_and_keeps_its_map(chain: Chain) -> None:
    path = chain.write(RELATION, os.urandom(16 * RUN))
    first = chain.run()
    os.utime(path)
    chain.listener = Hook(Together())
    second = chain.run()
    assert second.head["added_bytes"] == 0
    assert second.files[RELATION].frames == first.files[RELATION].frames


@pytest.mark.parametrize("left", [0, 5000, 2 * RUN, 3 * RUN + 100, 12 * RUN + 100, 15 * RUN])
def test_a_file_that_is_cut_off_while_two_read_it_ends_where_the_first_saw_it_end(
    chain: Chain, left: int
) -> None:
    path = chain.write(RELATION, os.urandom(16 * RUN))
    chain.run()
    change(path, random.Random(left).sample(range(2048), 600))
    content = path.read_bytes()
    chain.listener = Hook(Together(then=lambda: os.truncate(path, left)))
    backup = chain.run()
    found = backup.content(RELATION)
    assert found == content[: len(found)]
    assert len(found) >= min(left, RUN)
    backup.check_everything()
    chain.listener = Hook()
    assert restored(chain.run()) == chain.content()


def test_a_file_that_vanishes_while_two_read_it_is_read_by_both_to_its_end(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "SPLIT_BYTES", 12 * RUN)  # once: nobody opens it a third time
    path = chain.write(RELATION, os.urandom(16 * RUN))
    chain.run()
    change(path, [*range(0, 2048, 3), *range(1, 2048, 3)])
    content = path.read_bytes()
    chain.listener = Hook(Together(then=path.unlink))
    backup = chain.run()
    assert backup.content(RELATION) == content
    backup.check_everything()


def test_a_file_ends_where_a_part_of_it_begins_that_nobody_could_open(
    chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "SPLIT_BYTES", 12 * RUN)
    path = chain.write(RELATION, os.urandom(16 * RUN))
    chain.run()
    change(path, [*range(0, 2048, 3), *range(1, 2048, 3)])
    content = path.read_bytes()
    starts: list[int] = []
    gone = threading.Event()
    split = stretches.Stretch.split

    def split_and_drop(one: stretches.Stretch) -> stretches.Stretch | None:
        part = split(one)
        if part is not None:  # before anybody opens it
            path.unlink()
            starts.append(part.start)
            gone.set()
        return part

    monkeypatch.setattr(stretches.Stretch, "split", split_and_drop)
    chain.listener = Hook(lambda number: gone.wait(30))
    backup = chain.run()
    assert len(starts) == 1
    assert backup.content(RELATION) == content[: starts[0]]
    backup.check_everything()


def test_a_file_that_vanishes_before_pages_are_stored_again_is_kept_as_it_was_read(
    chain: Chain,
) -> None:
    chain.jobs = 1
    path = chain.write(RELATION, os.urandom(4 * RUN))
    chain.run()
    change(path, [*range(0, 512, 3), *range(1, 512, 3)])  # what is left would be stored again
    content = path.read_bytes()
    chain.listener = Hook(lambda number: path.unlink() if number == 4 else None)
    assert chain.run().content(RELATION) == content


def test_many_threads_share_one_file_many_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stretches, "SPLIT_BYTES", 2 * RUN)
    chain = Chain(tmp_path, checksums=False, jobs=8)
    path = chain.write(RELATION, os.urandom(40 * RUN + 5))
    chain.run()
    for round_number in range(4):
        change(path, random.Random(round_number).sample(range(5120), 2000))
        backup = chain.run()
        assert restored(backup) == chain.content()
        backup.check_everything()
