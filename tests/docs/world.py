"""Where the commands of a page are run: the host that the page speaks of, below one directory.

``/srv``, ``/var/lib`` and their like are moved below that directory in what is run, and back in
what is printed. The server is started and stopped by the page, through ``systemctl`` or ``pg_ctl``;
``db1``, ``s3://acme-…`` and other programs have stand-ins.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from pgkeep.seal import age
from tests import templates
from tests.installations import Installation
from tests.processes import is_alive
from tests.server_user import run_as_server_user, scrubbed_environment, server_user
from tests.servers import DEFAULT_CONF, new_directory, wait_until
from tests.warden import warden

_INSTALLED = "/usr/local/bin/pgkeep"
_MOVED = re.compile(
    r"(?:(?<=file://)|(?<![\w/.}]))/(?=(?:srv|mnt|etc/pgkeep|var/lib|usr/lib/postgresql)\b)"
)
_BUCKET = re.compile(r"s3://(acme-[a-z]+)")
_MOMENT = re.compile(r"(--time |MOMENT=)'[^']+'")

# start, stop or restart postgresql@18-main, as Debian calls it
_SYSTEMCTL = """
version=${{2#postgresql@}}
version=${{version%-main}}
exec env -i PATH="$PATH" LC_ALL=C TZ=UTC {root}/usr/lib/postgresql/$version/bin/pg_ctl -w -s \\
    -D {root}/var/lib/postgresql/$version/main -l {root}/log "$1"
"""
# What another archiver would do with a segment; the migration page calls it.
_PGBACKREST = """
test -e {root}/srv/broken && exit 1
for path; do :; done
mkdir -p {root}/srv/pgbackrest && cp "$path" {root}/srv/pgbackrest/
"""


class World:
    """One host with a running server of the first of these versions. ``ready``: with pgkeep on it.

    On the pages the versions are called ``NAMES``, oldest last.
    """

    NAMES = ("18", "17")

    def __init__(
        self, installations: Sequence[Installation], program: Path, *, ready: bool = True
    ) -> None:
        self.root = new_directory("w")
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
        self._program("pgkeep", f'exec {program} "$@"')
        self._program("systemctl", _SYSTEMCTL.format(root=self.root))
        self._program("pgbackrest", _PGBACKREST.format(root=self.root))
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
        script = f". {env}\n{self.moved(command)}\ncode=$?\nexport -p >{env}\nexit $code\n"
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
        command = _BUCKET.sub(rf"file://{self.root}/mnt/\1", command)
        command = command.replace("host=db1", f"host={self.root}/s")
        command = command.replace("age1…", self.public)
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
        self._write(f"bin/{name}", f"#!/bin/sh\n{script}\n", 0o755)

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
