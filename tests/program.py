"""The ``pgkeep`` command as a server calls it: by absolute path, with no environment of ours.

Installed, that is the console script beside the Python that runs the tests. From a checkout
on PYTHONPATH there is none, so a wrapper is written; if the checkout is closed to the
server's user, the package is copied to where it is not.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from functools import cache
from pathlib import Path

import pgkeep
from tests.server_user import can_run, server_user
from tests.servers import new_directory


@cache
def pgkeep_program() -> Path:
    """The command's absolute path; AssertionError if the server's user cannot execute it."""
    assert can_run([sys.executable, "-c", ""]), (
        f"{sys.executable} cannot be executed by user {server_user().name}; run: make test"
    )
    package = Path(str(pgkeep.__file__)).resolve().parent
    installed = Path(sys.executable).parent / "pgkeep"
    if package.is_relative_to(Path(sys.prefix).resolve()) and installed.exists():
        return installed
    return _wrapper(package)


def native_module() -> str:
    """Says whether the optional C module was built, for the closing lines of a run."""
    package = Path(str(pgkeep.__file__)).resolve().parent
    built = sorted(path.name for path in package.rglob("*.so"))
    return f"C module {', '.join(built)}" if built else "no C module (numpy twin only)"


def _wrapper(package: Path) -> Path:
    directory = new_directory("program")
    source = package.parent
    if not can_run([sys.executable, "-c", f"open({str(package / '__init__.py')!r})"]):
        source = directory / "src"
        shutil.copytree(package, source / package.name)
    wrapper = directory / "pgkeep"
    wrapper.write_text(
        "#!/bin/sh\n"
        f"PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={shlex.quote(str(source))} "
        f'exec {shlex.quote(sys.executable)} -m pgkeep "$@"\n'
    )
    wrapper.chmod(0o755)
    return wrapper
