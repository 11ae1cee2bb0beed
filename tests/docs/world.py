"""Where the commands of a page are run: the host that the page speaks of, below one directory.

``/srv``, ``/var/lib`` and their like are moved below that directory in what is run, and back in
what is printed. The server is started and stopped by the page, through ``systemctl`` or ``pg_ctl``;
``db1``, ``s3://acme-…`` and other programs have stand-ins. What a reader fills in is filled in from
variables, which hidden lines may set: ``age1…`` is ``$RECIPIENT``, a backup's name ``$BACKUP``.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pgkeep.seal import age
from tests import templates
from tests.docs import standins
from tests.installations import Installation
from tests.processes import is_alive
from tests.restore.verifybackup import working_program
from tests.server_user import run_as_server_user, scrubbed_environment, server_user
from tests.servers import DEFAULT_CONF, new_directory, wait_until
from tests.warden import warden

_INSTALLED = "/usr/local/bin/pgkeep"
_MOVED = re.compile(
    r"(?:(?<=file://)|(?<![\w/.}]))/(?=(?:srv|mnt|etc/pgkeep|var/lib|usr/lib/postgresql)\b)"
)
_BUCKET = re.compile(r"s3://(acme-[a-z]+)")
_MOMENT = re.compile(r"(--time |--as-of |MOMENT=)('[^']+'|\d\S+)")
_FILLED_IN = (
    (re.compile(r"age1…"), "${RECIPIENT:-$(age-keygen -y ~/identity.txt)}"),
    (re.compile(r"0123456789abcdef0123456789abcdef"), "$FINGERPRINT"),
    (re.compile(r"\b20\d{6}T\d\d(?:\d{4}Z)?\b"), "$BACKUP"),
    (re.compile(r"--host db1\b"), f"--host {socket.gethostname()}"),
    (re.compile(r"\b77\d{17}\b"), "$SYSTEM"),
)


class World:
    """One host with a running server of the first of these versions. ``ready``: with pgkeep on it.

    On the pages the versions are called ``NAMES``, oldest last. Buckets are directories, unless
    ``store`` has the variables by which a real one is reached.
    """

    NAMES = ("18", "17")

    def __init__(
        self,
        installations: Sequence[Installation],
        program: Path,
        *,
        ready: bool = True,
        store: Mapping[str, str] | None = None,
    ) -> None:
        self.root = new_directory("w")
        self._store = store or {}
        self._program_path = str(program)
        self.code = 0
        self._pids: set[int] = set()
        self._moment = ""
        self._bins = {
            name: one.program("psql").parent
            for name, one in zip(self.NAMES, reversed(installations), strict=False)
        }
        for folder in ("bin", "home", "s", "srv", "mnt", "etc/pgkeep", "var/lib/pgkeep"):
            self._folder(folder)
        for name, place in self._bins.items():
            self._folder(f"var/lib/postgresql/{name}")
            self._folder(f"usr/lib/postgresql/{name}")
            (self.root / f"usr/lib/postgresql/{name}/bin").symlink_to(place)
        name = list(self._bins)[-1]
        secret, self.public = age.generate_identity()
        self._write("home/identity.txt", f"{secret}\n", 0o600)
        self._write("home/env", self._exports(name))
        facts = {"root": self.root, "running": name, "python": sys.executable}
        self._write("bin/s3api", standins.S3API)
        self._program("pgkeep", f'#!/bin/sh\nexec {program} "$@"\n')
        self._program("systemctl", standins.SYSTEMCTL.format(**facts))
        self._program("pgbackrest", standins.PGBACKREST.format(**facts))
        self._program("field", f"#!{sys.executable}\n{standins.FIELD}")
        self._program("python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        checker, libraries = working_program(installations[-1])
        self._program(
            "pg_verifybackup",
            f'#!/bin/sh\nLD_LIBRARY_PATH="{libraries}" exec {checker} "$@"\n',
        )
        self._program("aws", standins.AWS.format(**facts))
        self._make_cluster(installations[0], self.root / f"var/lib/postgresql/{name}/main")
        self.run(f"systemctl start postgresql@{name}-main")
        if ready:
            self.run("pgkeep init --recipient $RECIPIENT && pgkeep setup --apply")
            self.run(f"systemctl restart postgresql@{name}-main")

    # -- running -----------------------------------------------------------------------------

    def run(self, command: str, *, code: int | None = 0) -> str:
        """Run a line as the page's reader would, and return what it printed, as he would see it.

        ``moment`` notes the time that the page's next times stand for. AssertionError for another
        exit code than ``code``; it stays in ``self.code``.
        """
        if command == "moment":
            self._moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}+00:00"
            command = "sleep 0.02"  # the next commit is a later one
        env = self.root / "home/env"
        keep = f'export -p >{env}\nprintf "cd %q\\n" "$PWD" >>{env}'
        script = f". {env}\n{self.moved(command)}\ncode=$?\n{keep}\nexit $code\n"
        said_to = self.root / "said"
        self._write("said", "")
        with open(said_to) as file:
            # A file: a server that is started here would hold a pipe open.
            done = run_as_server_user(
                ["bash", "-c", f"exec >>{file.name} 2>&1 </dev/null\n{script}"],
                env=scrubbed_environment({"HOME": str(self.root / "home")}),
                cwd=self.root / "home",
                check=False,
            )
            said = self.shown(file.read())
        self._remember_servers()
        self.code = done.returncode
        assert code is None or self.code == code, f"{command}\nexit code {self.code}\n{said}"
        return said

    def moved(self, command: str) -> str:
        """The command as it is run."""
        command = _MOVED.sub(f"{self.root}/", command.replace(_INSTALLED, self._program_path))
        if not self._store:
            command = _BUCKET.sub(rf"file://{self.root}/mnt/\1", command)
        command = command.replace("host=db1", f"host={self.root}/s")
        for written, variable in _FILLED_IN:
            command = written.sub(variable, command)
        if self._moment:
            command = _MOMENT.sub(rf"\1'{self._moment}'", command)
        return command

    def shown(self, text: str) -> str:
        """What was printed, as it would be on the page's host."""
        text = text.replace(self._program_path, _INSTALLED)
        text = re.sub(rf"file://{self.root}/mnt/(acme-[a-z]+)", r"s3://\1", text)
        for name, place in self._bins.items():
            text = text.replace(str(place), f"/usr/lib/postgresql/{name}/bin")
        text = text.replace(f"host={self.root}/s", "host=db1").replace(self.public, "age1…")
        text = re.sub(rf"\buser {server_user().name}\b", "user postgres", text)
        text = text.replace(f"from {socket.gethostname()};", "from db1;")
        return text.replace(f'{self.root}/s"', '/run/postgresql"').replace(str(self.root), "")

    def close(self) -> None:
        """End every server in it, and remove it."""
        for pid in self._pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)
        for pid in self._pids:
            wait_until(partial(_is_gone, pid), what=f"{pid} ends")
            warden().release_process(pid)
        shutil.rmtree(self.root, ignore_errors=True)

    # -- inside ------------------------------------------------------------------------------

    def _remember_servers(self) -> None:
        for path in self.root.rglob("postmaster.pid"):
            with suppress(OSError, IndexError, ValueError):
                pid = int(path.read_text().split()[0])
                if pid not in self._pids:
                    warden().keep_process(pid)
                    self._pids.add(pid)

    def _exports(self, name: str) -> str:
        place = self.root / f"usr/lib/postgresql/{name}/bin"
        variables = {
            "PATH": f"{self.root}/bin:{place}:/usr/bin:/bin",
            "PGHOST": self.root / "s",
            "PGUSER": "postgres",
            "PGDATABASE": "postgres",
            "PGKEEP_REPO": f"file://{self.root}/srv/backups",
            "PGKEEP_STATE": self.root / "var/lib/pgkeep",
            "PGKEEP_IDENTITY": self.root / "home/identity.txt",
            "RECIPIENT": self.public,
            **self._store,
        }
        return "".join(f"export {name}='{value}'\n" for name, value in variables.items())

    def _make_cluster(self, installation: Installation, pgdata: Path) -> None:
        template = templates.template(installation, checksums=True, wal_segsize_mb=16)
        templates.clone(template, pgdata)
        own = {"unix_socket_directories": self.root / "s", "listen_addresses": "", "fsync": "off"}
        with open(pgdata / "postgresql.conf", "a") as file:
            settings = {**DEFAULT_CONF, **own}
            file.writelines(f"{name} = '{value}'\n" for name, value in settings.items())

    def _program(self, name: str, script: str) -> None:
        self._write(f"bin/{name}", script, 0o755)

    def _folder(self, name: str) -> None:
        path = self.root
        for part in Path(name).parts:
            path /= part
            if not path.exists():
                path.mkdir()
                server_user().own(path)

    def _write(self, name: str, text: str, mode: int = 0o644) -> None:
        path = self.root / name
        path.write_text(text)
        path.chmod(mode)
        server_user().own(path)


def _is_gone(pid: int) -> bool:
    return not is_alive(pid)
