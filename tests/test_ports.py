"""No two test processes get the same port."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.ports import free_port

_MANY = 400
_PROGRAM = f"""
from tests import ports
ports._PORTS = range(20_000, 21_000)
print(*[ports.free_port() for _ in range({_MANY})], flush=True)
input()
"""


def test_a_port_is_promised_once_even_to_processes_that_ask_at_the_same_time() -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        for _ in range(2)
    ]
    try:
        given = [child.stdout.readline().split() for child in children if child.stdout]
    finally:
        for child in children:
            child.communicate("\n")
    assert [len(ports) for ports in given] == [_MANY, _MANY]
    assert len({*given[0], *given[1]}) == 2 * _MANY


def test_a_port_is_not_given_again() -> None:
    given = [free_port() for _ in range(50)]
    assert len(set(given)) == len(given)
