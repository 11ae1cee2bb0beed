"""What a command says while its store is away: once, where the person looks, in every mode."""

from __future__ import annotations

import io
import json
import time
from argparse import Namespace

import pytest

from pgkeep.cli.context import Context
from pgkeep.cli.outages import FIRST_CONTACT_SECONDS, PATIENCE_SECONDS
from pgkeep.cli.output import Output
from pgkeep.errors import StoreUnavailable
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.memory import MemoryStore
from tests.cli.kit import Pgkeep

AWAY = StoreUnavailable("Cannot read a in memory://.", why="The connection was refused.")


def context_with(*, progress: str = "none", as_json: bool = False) -> Context:
    output = Output(as_json=as_json, stdout=io.StringIO(), stderr=io.StringIO())
    args = Namespace(progress=progress)
    return Context(args, output, environ={}, program=("pgkeep",), owner_uid=0)


def said_during_an_outage(context: Context) -> list[str]:
    outages = context.outages
    outages.answered()
    outages.begin_waiting()
    outages.waits(AWAY, PATIENCE_SECONDS, since=0.0)
    outages.waits(AWAY, PATIENCE_SECONDS, since=0.0)
    outages.end_waiting(is_answered=True, now=150.0)
    assert isinstance(context.output.stderr, io.StringIO)
    assert isinstance(context.output.stdout, io.StringIO)
    assert context.output.stdout.getvalue() == ""
    return context.output.stderr.getvalue().splitlines()


@pytest.mark.parametrize("mode", ["bar", "lines", "none"])
@pytest.mark.parametrize("is_shown", [True, False])
def test_it_is_told_once_and_its_end_too(mode: str, is_shown: bool) -> None:
    context = context_with(progress=mode)
    if is_shown:
        with context.progress() as progress:
            lines = said_during_an_outage(context)
        assert len(progress.warnings) == 1
    else:
        lines = said_during_an_outage(context)
    away, back = lines
    assert "does not answer" in away
    assert "10m" in away
    assert "The connection was refused." in away
    assert "answers again, after 2m 30s" in back


def test_a_machine_reads_it_as_json() -> None:
    away, back = map(json.loads, said_during_an_outage(context_with(as_json=True)))
    assert "does not answer" in away["warning"]
    assert "answers again" in back["note"]


def test_a_store_that_never_answers_is_left_after_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the message says where it was looked for."""
    from pgkeep.config import load_settings

    faulty = FaultyStore(MemoryStore("memory://nowhere"))
    faulty.fail(Fault(Failure.UNAVAILABLE, times=None))
    monkeypatch.setattr("pgkeep.storage.open_store", lambda url, *_, **__: faulty)
    from pgkeep.cli.session import open_store

    context = context_with()
    store = open_store(load_settings({"PGKEEP_REPO": "memory://x"}), outages=context.outages)
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        store.get("pgkeep/repository")
    assert time.monotonic() - began < FIRST_CONTACT_SECONDS + 2
    assert "memory://nowhere" in caught.value.what


def test_a_directory_that_is_missing_is_told_at_once(pgkeep_without: Pgkeep) -> None:
    began = time.monotonic()
    done = pgkeep_without("list", code=46)
    assert time.monotonic() - began < FIRST_CONTACT_SECONDS
    assert str(pgkeep_without.repository) in done.stderr


@pytest.fixture
def pgkeep_without() -> Pgkeep:
    """A program that is told of a repository which is not there."""
    return Pgkeep()
