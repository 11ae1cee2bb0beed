"""Find a Python that the servers' user can execute.

PostgreSQL refuses to run as root, so as root the servers, and the pgkeep that they call, run
as ``nobody``. A Python under root's home, as version managers install it, is closed to that
user. Rights can be set in many ways, so nothing is deduced from modes: it is tried.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from typing import Any

OLDEST = (3, 11)
_NAMES = ("python3", "python3.13", "python3.12", "python3.11", "python3.14")

# The modules are those that a Python built by hand may lack.
_DESCRIBE = """
import sys, sqlite3, ssl, zlib
print(getattr(sys, "_base_executable", None) or sys.executable)
print(*sys.version_info[:2])
"""


class Refused(Exception):
    """One clear line for the user, who can do something about it."""


def run_for_servers(argv: list[str]) -> str | None:
    """What a program prints when the servers' user runs it; None if that does not work."""
    options: dict[str, Any] = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        options = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
    return _output(argv, cwd="/", env=environment, **options)


def find_python() -> str:
    """The first Python, new enough, that the servers' user can execute.

    Raises Refused if there is none.
    """
    for candidate in _candidates():
        # The shim of a version manager answers with the program that it stands for.
        found = _describe(candidate)
        if found is None or found[1] < OLDEST:
            continue
        path = found[0]
        if run_for_servers([path, "-I", "-c", _DESCRIBE]) is not None:
            return path
    user = "user nobody, as whom servers run, can" if os.geteuid() == 0 else "you can"
    raise Refused(
        f"No Python 3.11 or newer, with sqlite3 and ssl, was found that {user} execute.\n"
        "Install one: apt-get install python3"
    )


def pythons_with(module: str) -> list[str]:
    """Every Python at hand, whoever may execute it, that has this module."""
    return [
        python
        for python in _candidates()
        if _output([python, "-c", f"import {module}"]) is not None
    ]


def _candidates() -> list[str]:
    """Programs to try, the most natural first."""
    chosen = os.environ.get("PGKEEP_PYTHON")
    if chosen:
        return [chosen]
    on_path = [path for name in _NAMES if (path := shutil.which(name))]
    usual = [f"{folder}/{name}" for folder in ("/usr/bin", "/usr/local/bin") for name in _NAMES]
    return list(dict.fromkeys([*on_path, sys.executable, *usual]))


def _describe(python: str) -> tuple[str, tuple[int, ...]] | None:
    """(its own path, its version), as it says itself; None if it does not run."""
    answer = _output([python, "-I", "-c", _DESCRIBE])
    if answer is None:
        return None
    path, version = answer.splitlines()
    return path, tuple(map(int, version.split()))


def _output(argv: list[str], **options: Any) -> str | None:
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, check=True, **options
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return str(done.stdout)
