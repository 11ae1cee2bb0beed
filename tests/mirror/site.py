"""A server whose cluster is kept in three repositories: two directories and an object store."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

from pgkeep.seal import age
from tests.factory import ServerFactory
from tests.object_stores import Service
from tests.server_user import popen_as_server_user, run_as_server_user, server_user
from tests.servers import PgServer, new_directory


class Site:
    """``main`` and the mirror ``second`` are directories, ``cloud`` is on an object store if there
    is one. Commands run as the server's user, with all settings in their environment."""

    def __init__(
        self, factory: ServerFactory, program: Path, *, service: Service | None = None, **more: str
    ) -> None:
        self.server = factory()
        self.factory, self.program = factory, program
        self.folder = new_directory("m")
        secret, self.public = age.generate_identity()
        identity = self.folder / "identity.txt"
        identity.write_text(secret + "\n")
        identity.chmod(0o600)
        server_user().own(identity)
        self.main, self.second = self.folder / "main", self.folder / "second"
        self.environ = {
            **self.server.env,
            "PGKEEP_REPO": self.main.as_uri(),
            "PGKEEP_MIRROR_SECOND_REPO": self.second.as_uri(),
            "PGKEEP_STATE": str(self.folder / "state"),
            "PGKEEP_IDENTITY": str(identity),
            **more,
        }
        if service is not None:
            place = service.new_place()
            self.environ["PGKEEP_MIRROR_CLOUD_REPO"] = f"s3://{place.bucket}/{place.prefix}"
            for name, value in service.environ.items():
                if name.startswith("PGKEEP_"):
                    variable = f"PGKEEP_MIRROR_CLOUD_{name.removeprefix('PGKEEP_')}"
                    self.environ[variable] = value
        self.pgkeep("init", "--recipient", self.public)
        self.pgkeep("setup", "--apply")
        self.server.restart()

    def run(
        self, *arguments: str | Path, **variables: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; a variable of None is left out."""
        whole = {**self.environ, **variables}
        env = {name: value for name, value in whole.items() if value is not None}
        return run_as_server_user([self.program, *map(str, arguments)], env=env, check=False)

    def pgkeep(self, *arguments: str | Path, code: int = 0, **variables: str | None) -> str:
        done = self.run(*arguments, **variables)
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def json(self, *arguments: str | Path, code: int = 0, **variables: str | None) -> Any:
        done = self.run(*arguments, "--json", **variables)
        assert done.returncode == code, (
            f"{arguments}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return json.loads(done.stdout)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return popen_as_server_user(
            [self.program, *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @staticmethod
    def take_away(repository: Path) -> None:
        """It cannot be reached: what a file system that is not mounted looks like."""
        repository.rename(repository.with_suffix(".away"))

    @staticmethod
    def bring_back(repository: Path) -> None:
        repository.with_suffix(".away").rename(repository)

    def only(self, repository: Path) -> dict[str, Any]:
        """Variables with which only this repository is known."""
        mirrors = [name for name in self.environ if "_MIRROR_" in name]
        return {**dict.fromkeys(mirrors), "PGKEEP_REPO": repository.as_uri()}

    def fill(self, rows: int, table: str = "t") -> None:
        self.server.psql(f"CREATE TABLE IF NOT EXISTS {table}(id int, body text)")
        self.server.psql(
            f"INSERT INTO {table} SELECT n, md5(n::text) FROM generate_series(1, {rows}) n"
        )

    def switch(self) -> None:
        self.server.psql("SELECT pg_switch_wal()")

    def restored(self, *options: str, **variables: Any) -> PgServer:
        into = new_directory("r") / "data"
        self.pgkeep("restore", "--into", into, *options, **variables)
        back = self.factory.adopt(into).start()
        back.wait_recovery_end()
        return back

    def files(self, repository: Path) -> dict[str, int]:
        """Sizes of what mirrors have in common."""
        kinds = ("packs", "manifests", "manifests-copy", "wal", "history")
        found = {}
        for path in repository.rglob("*"):
            place = path.relative_to(repository).parts
            if path.is_file() and len(place) > 3 and place[2] in kinds:
                found["/".join(place)] = path.stat().st_size
        return found

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
