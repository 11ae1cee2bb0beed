"""As whom servers run, and what such a process may see.

PostgreSQL refuses to run as root. When the tests run as root, ``nobody`` is the only other
user that surely exists; otherwise servers run as ourselves. Whatever the server's user must
read or execute has to lie where that user can go, which a root-owned checkout or a private
``TMPDIR`` is not: hence ``base_directory``.
"""

from __future__ import annotations

import os
import pwd
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

# sockaddr_un holds 108 bytes on Linux and 104 on macOS, the closing zero included.
LONGEST_SOCKET_PATH = 103
# What a server adds to its base directory: "/pgkXXXXXXXX/NN/s/.s.PGSQL.65535.lock".
_ADDED_TO_BASE = 40


@dataclass(frozen=True)
class ServerUser:
    name: str
    uid: int
    gid: int
    # We are root and the user is another one: processes must be started as that user.
    is_other: bool

    def popen_options(self) -> dict[str, Any]:
        """The arguments of ``subprocess.Popen`` that start a process as this user."""
        if not self.is_other:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def own(self, path: Path) -> Path:
        """Give ``path`` itself, not what it holds, to this user."""
        if self.is_other:
            os.chown(path, self.uid, self.gid)
        return path


@cache
def server_user() -> ServerUser:
    """``nobody`` if we are root, else ourselves."""
    if os.geteuid() != 0:
        entry = pwd.getpwuid(os.geteuid())
        return ServerUser(entry.pw_name, entry.pw_uid, entry.pw_gid, is_other=False)
    entry = pwd.getpwnam("nobody")
    return ServerUser(entry.pw_name, entry.pw_uid, entry.pw_gid, is_other=True)


def scrubbed_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Our environment without what would steer libpq, PostgreSQL or pgkeep; then ``extra``."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "LC_", "LANG"))
    }
    environment["LC_ALL"] = "C"
    environment["TZ"] = "UTC"
    if server_user().is_other:
        # Root's home is closed to the server's user; programs that look there would fail.
        environment["HOME"] = "/nonexistent"
    environment.update(extra or {})
    return environment


def popen_as_server_user(argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
    """Start a process as the server's user, in ``/`` and with a scrubbed environment."""
    options.setdefault("env", scrubbed_environment())
    options.setdefault("cwd", "/")
    return subprocess.Popen([*map(str, argv)], **server_user().popen_options(), **options)


def run_as_server_user(
    argv: Sequence[str | Path], *, check: bool = True, timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as the server's user and return its text output.

    With ``check``, any exit code but 0 raises AssertionError with all that it printed.
    """
    options.setdefault("env", scrubbed_environment())
    options.setdefault("cwd", "/")
    done = subprocess.run(
        [*map(str, argv)],
        check=False,
        capture_output=True,
        text=True,
        timeout=timeout,
        **server_user().popen_options(),
        **options,
    )
    if check and done.returncode != 0:
        command = " ".join(map(str, argv))
        raise AssertionError(
            f"{command}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done


@cache
def base_directory() -> Path:
    """Where servers live: short, and open to the server's user."""
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(candidate).resolve()
        if len(os.fsencode(path)) + _ADDED_TO_BASE > LONGEST_SOCKET_PATH:
            continue
        with tempfile.TemporaryDirectory(prefix="pgk", dir=path) as probe:
            Path(probe).chmod(0o755)
            if can_run(["/bin/sh", "-c", f"cd '{probe}'"]):
                return path
    raise AssertionError("No temporary directory is short enough and open to the server's user.")


def can_run(argv: Sequence[str | Path]) -> bool:
    """Whether the server's user can execute this, and it ends well."""
    try:
        return run_as_server_user(argv, check=False, timeout=30).returncode == 0
    except OSError:
        return False
