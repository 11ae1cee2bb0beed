"""What PostgreSQL's programs say is kept as far as it matters, however they are run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pgkeep.dump.directory import run_directory
from pgkeep.dump.process import Ended, Processes, run_feeding, run_quietly, run_reading

ENVIRONMENT = {"PATH": os.environ["PATH"]}
WARNING = 'table "x" not dumped because of this'
TALKATIVE = [
    "/bin/sh",
    "-c",
    f"echo 'pg_dump: warning: {WARNING}' >&2; "
    "for n in $(seq 500); do echo line $n >&2; done; echo 'pg_dump: error: the end' >&2; exit 3",
]


def ended_by(way: str, place: Path) -> Ended:
    processes = Processes()
    if way == "reading":
        return run_reading(processes, TALKATIVE, ENVIRONMENT, lambda data: None)
    if way == "quietly":
        return run_quietly(processes, TALKATIVE, ENVIRONMENT)
    if way == "feeding":
        return run_feeding(processes, TALKATIVE, ENVIRONMENT, [b"x" * 100] * 10)
    return run_directory(processes, TALKATIVE, ENVIRONMENT, place, lambda data: None, waiting=1)


@pytest.mark.parametrize("way", ["reading", "quietly", "feeding", "directory"])
def test_a_warning_is_known_however_much_is_said_after_it(way: str, tmp_path: Path) -> None:
    ended = ended_by(way, tmp_path)
    assert ended.warnings == (WARNING,)
    assert (ended.code, ended.why) == (3, "pg_dump: error: the end")
    assert len(ended.said.splitlines()) == 40
