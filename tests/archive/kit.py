"""A host that archives into a repository of its own, with the commands run as its server would.

Most tests need no server: a data directory is ``global/pg_control`` and ``pg_wal``. The control
file is a real one (from initdb), and segments are zeros after a real long page header.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Self

import google_crc32c

from pgkeep.postgres.control import ControlFile
from pgkeep.postgres.datadir import read_control
from pgkeep.postgres.segment import MAGIC_BY_MAJOR
from pgkeep.postgres.wal_name import parse_wal_name, segment_of
from pgkeep.repository.host import HostState
from pgkeep.repository.identity import create_repository, make_key_set, open_repository
from pgkeep.repository.layout import Layout
from pgkeep.repository.system import register_system
from pgkeep.repository.wal import WalHeader, open_wal_object
from pgkeep.seal import age
from pgkeep.storage import Store, open_store
from tests.installations import find_installations
from tests.program import pgkeep_program
from tests.server_user import popen_as_server_user, scrubbed_environment, server_user
from tests.servers import new_directory
from tests.templates import give_identity, template

AT = "2026-11-20T12:00:00.000000Z"
BY = {"host": "test", "pid": 1, "version": "0"}
MIB = 1 << 20
FIRST = "000000010000000000000001"

_LONG_HEADER = struct.Struct("<HHIQI4xQII")


class Host:
    """A repository, a state directory, and the settings by which the commands find them."""

    def __init__(self, root: Path, *, sealed: bool = True) -> None:
        self.root = root
        self.repository_path = root / "repo"
        self.state = root / "state"
        self.config = root / "pgkeep.toml"
        self.identity_file = root / "identity"
        self.url = f"file://{self.repository_path}"
        secret, public = age.generate_identity()
        self.identity_file.write_text(secret + "\n")
        self.state.mkdir(0o700)
        keys = make_key_set([public], None) if sealed else None
        create_repository(open_store(self.url, create=True), keys, at=AT, by=BY)
        self.configure()
        self.give_away()

    def configure(self, **more: object) -> None:
        """Write the configuration file that the commands are given."""
        values = {"repo": self.url, "state": self.state, "identity": self.identity_file, **more}
        lines = [
            f'{name} = "{value}"' if not isinstance(value, int) else f"{name} = {value}"
            for name, value in values.items()
        ]
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)
        server_user().own(self.config)

    def give_away(self) -> None:
        """Everything belongs to the server's user, as if that had made it."""
        user = server_user()
        if user.is_other:
            for path in (self.root, *self.root.rglob("*")):
                os.chown(path, user.uid, user.gid, follow_symlinks=False)

    def register(self, pgdata: Path, *, cluster: str = "main", new_system: bool = False) -> None:
        """What ``pgkeep init`` does for a data directory."""
        control = read_control(pgdata)
        register_system(
            self.store,
            cluster,
            control.system_identifier,
            postgres_major=control.major or 0,
            new_system=new_system,
            at=AT,
            by=BY,
        )
        self.give_away()

    @property
    def store(self) -> Store:
        return open_store(self.url)

    # -- commands ----------------------------------------------------------------------------

    def command(self, command: str, *more: str) -> str:
        """For ``archive_command`` and ``restore_command``."""
        arguments = {"wal-push": "%p", "wal-fetch": "%f %p"}[command]
        program = [str(pgkeep_program()), "--config", str(self.config), command]
        return " ".join([*program, arguments, *more])

    def push(self, pgdata: Path, name: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """``wal-push pg_wal/NAME`` in the data directory."""
        return self.run("wal-push", f"pg_wal/{name}", cwd=pgdata, **options)

    def fetch(
        self,
        pgdata: Path,
        name: str,
        *more: str,
        target: str = "pg_wal/RECOVERYXLOG",
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """``wal-fetch NAME pg_wal/RECOVERYXLOG`` in the data directory."""
        return self.run("wal-fetch", name, target, *more, cwd=pgdata, **options)

    def run(
        self, *argv: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        with self.start(*argv, cwd=cwd, env=env) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(argv, process.returncode, out, err)

    def start(
        self, *argv: str, cwd: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        return popen_as_server_user(
            [pgkeep_program(), "--config", self.config, *argv],
            cwd=cwd,
            env=scrubbed_environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    # -- what is stored ----------------------------------------------------------------------

    def layout(self, pgdata: Path, cluster: str = "main") -> Layout:
        return Layout(cluster, read_control(pgdata).system_identifier)

    def object_path(self, pgdata: Path, name: str) -> Path:
        """The file of a stored WAL file in the local repository."""
        return self.repository_path / self.layout(pgdata).wal_file(name)

    def stored(self, pgdata: Path, name: str) -> bytes:
        """The plain content that is stored under a name, every check applied."""
        return self.stored_with_header(pgdata, name)[1]

    def stored_with_header(self, pgdata: Path, name: str) -> tuple[WalHeader, bytes]:
        from pgkeep.repository.identity import Unlock

        unlock = Unlock(identities=age.read_identities(self.identity_file.read_text()))
        scratch = HostState(self.root / "reader-state")
        repository = open_repository(self.store, scratch, unlock=unlock)
        key = self.layout(pgdata).wal_file(name)
        header, frames = open_wal_object(self.store.get(key), key, repository.keyring)
        return header, b"".join(frames)

    def wal_objects(self) -> list[str]:
        """The names of all stored WAL files."""
        keys = [info.key for info in self.store.list("main/")]
        return [key.rpartition("/")[2] for key in keys if "/wal/" in key or "/history/" in key]


class DataDirectory:
    """As much of a data directory as the commands look at, with as many segments as wanted."""

    def __init__(self, path: Path, *, segment_mib: int = 1) -> None:
        self.path = path
        self.segment_mib = segment_mib
        for folder in ("global", "pg_wal/archive_status"):
            (path / folder).mkdir(parents=True)
        source = _control_template()
        shutil.copyfile(source / "global/pg_control", path / "global/pg_control")
        shutil.copyfile(source / "PG_VERSION", path / "PG_VERSION")
        self._set_segment_size(segment_mib * MIB)
        (path / "pg_wal" / "0000000100000000000000FF").write_bytes(bytes(64))
        give_identity(path, int.from_bytes(os.urandom(2)) & 0xFFFFF)
        (path / "pg_wal" / "0000000100000000000000FF").unlink()
        self.own()

    @classmethod
    def make(cls, *, segment_mib: int = 1) -> Self:
        return cls(new_directory() / "data", segment_mib=segment_mib)

    def own(self) -> None:
        user = server_user()
        if user.is_other:
            for path in (self.path, *self.path.rglob("*")):
                os.chown(path, user.uid, user.gid, follow_symlinks=False)

    @property
    def control(self) -> ControlFile:
        return read_control(self.path)

    def segment_bytes(self, name: str, *, fill: bytes | None = None, size: int = 0) -> bytes:
        """A segment with a valid header; ``fill`` is repeated after it (random by default)."""
        size = size or self.segment_mib * MIB
        parsed = parse_wal_name(name)
        address = segment_of(parsed, self.segment_mib * MIB) * self.segment_mib * MIB
        header = _LONG_HEADER.pack(
            MAGIC_BY_MAJOR[self.control.major or 18],
            2,
            parsed.timeline,
            address,
            0,
            self.control.system_identifier,
            self.segment_mib * MIB,
            8192,
        )
        fill = fill or os.urandom(4096)
        return (header + fill * (size // len(fill) + 1))[:size]

    def add_segment(self, name: str, *, fill: bytes | None = None, ready: bool = False) -> bytes:
        """Write a segment into pg_wal, and with ``ready`` let it wait for being archived."""
        return self.add_file(name, self.segment_bytes(name, fill=fill), ready=ready)

    def add_file(self, name: str, content: bytes, *, ready: bool = False) -> bytes:
        (self.path / "pg_wal" / name).write_bytes(content)
        if ready:
            (self.path / "pg_wal/archive_status" / f"{name}.ready").touch()
        self.own()
        return content

    def put(self, name: str, content: str = "") -> Path:
        """Any other file in the data directory."""
        (self.path / name).write_text(content)
        self.own()
        return self.path / name

    def fetched(self, target: str = "pg_wal/RECOVERYXLOG") -> bytes | None:
        """What a fetch put in place; None if there is nothing."""
        path = self.path / target
        return path.read_bytes() if path.exists() else None

    def leftovers(self) -> list[str]:
        """Temporary files beside the target."""
        return [path.name for path in (self.path / "pg_wal").iterdir() if "pgkeep" in path.name]

    def _set_segment_size(self, size: int) -> None:
        """Patch ``xlog_seg_size``, found by its known value beside the WAL block size."""
        control = self.path / "global/pg_control"
        raw = bytearray(control.read_bytes())
        at = raw.index(struct.pack("<II", 8192, 16 * MIB)) + 4
        struct.pack_into("<I", raw, at, size)
        crc_at = _crc_offset(control.read_bytes())
        struct.pack_into("<I", raw, crc_at, google_crc32c.value(bytes(raw[:crc_at])))
        control.write_bytes(raw)


def names(count: int, *, start: int = 1, timeline: int = 1) -> list[str]:
    """Consecutive segment names, with segments of 1 MiB."""
    return [f"{timeline:08X}{0:08X}{number:08X}" for number in range(start, start + count)]


def _crc_offset(raw: bytes) -> int:
    for offset in range(200, 508, 4):
        if struct.unpack_from("<I", raw, offset)[0] == google_crc32c.value(raw[:offset]):
            return offset
    raise AssertionError("pg_control holds no CRC where one is expected")


@cache
def _control_template() -> Path:
    newest = find_installations()[max(find_installations())]
    return template(newest, checksums=True, wal_segsize_mb=16)
