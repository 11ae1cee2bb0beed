"""OpenSSH servers for tests: on loopback, with keys of their own, as an ordinary user.

Each knows one key of ours, and serves SFTP and nothing else. It ends with us.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests import processes
from tests.ports import free_port
from tests.server_user import base_directory, scrubbed_environment, server_user
from tests.warden import warden

_PLACES = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
# Where Debian's sshd wants to go when it is root, and no service manager made it.
_PRIVILEGE_SEPARATION = Path("/run/sshd")


def find_sshd() -> str | None:
    """The program, if it is installed."""
    return shutil.which("sshd", path=_PLACES)


class Sshd:
    """One server. ``key_file`` and ``known_hosts`` are what a client needs for it.

    ``sftp`` are arguments for the SFTP server, as in sftp-server(8). With ``as_root`` it is
    root's, as one that serves many users is; ``options`` are further lines of sshd_config.
    """

    def __init__(
        self, *, sftp: str = "", options: tuple[str, ...] = (), as_root: bool = False
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pgk", dir=base_directory()))
        warden().keep_directory(self.folder)
        server_user().own(self.folder)
        self.folder.chmod(0o755)
        self.key_file = self.new_key("user_key")
        self.port = free_port()
        self.known_hosts = self.folder / "known_hosts"
        self._as_root = as_root
        self._process: subprocess.Popen[bytes] | None = None
        self.renew_host_key()
        self.believe()
        shutil.copy(f"{self.key_file}.pub", self.folder / "authorized_keys")
        self._write_config(sftp, options)
        if as_root:
            _PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        self.start()

    @property
    def user(self) -> str:
        return server_user().name

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def url(self, path: Path | str) -> str:
        """The URL of a directory there."""
        return f"sftp://{self.user}@127.0.0.1:{self.port}{path}"

    def new_directory(self, name: str = "repository") -> Path:
        """A path that does not exist yet, in a directory that the server's user may write to."""
        parent = Path(tempfile.mkdtemp(prefix="r", dir=self.folder))
        server_user().own(parent)
        return parent / name

    def new_key(self, name: str, *, passphrase: str = "") -> Path:
        """A private key; the public one lies beside it."""
        path = self.folder / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", path],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return path

    def renew_host_key(self) -> None:
        """Another host key, from the next start on."""
        for name in ("host_key", "host_key.pub"):
            (self.folder / name).unlink(missing_ok=True)
        key = self.new_key("host_key")
        if not self._as_root:
            server_user().own(key)  # nobody else's key is taken

    def believe(self) -> None:
        """Write the present host key into ``known_hosts``."""
        key = (self.folder / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}")

    def start(self) -> None:
        """Start, and wait until it answers."""
        program = find_sshd()
        assert program is not None
        who = {} if self._as_root else server_user().popen_options()
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [program, "-D", "-e", "-f", self.folder / "sshd_config"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=scrubbed_environment(),
                **who,
            )
        warden().keep_process(self._process.pid)
        deadline = time.monotonic() + 20
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it with all its connections, as a crash of the machine would."""
        if self._process is not None:
            processes.kill_tree(self._process.pid)
            self._process.wait()
            warden().release_process(self._process.pid)
            self._process = None

    def close(self) -> None:
        """End it and remove all that was its."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """What it said so far."""
        return (self.folder / "log").read_text(errors="replace")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.settimeout(5)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _write_config(self, sftp: str, options: tuple[str, ...]) -> None:
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host_key",
            "PidFile none",
            f"AuthorizedKeysFile {self.folder}/authorized_keys",
            "StrictModes no",
            # Without it an account that has no password counts as locked.
            "UsePAM yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            f"Subsystem sftp internal-sftp {sftp}",
            *options,
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
