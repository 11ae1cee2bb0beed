"""The ``pgkeep`` program with a repository and a state directory of its own."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgkeep.seal import age
from tests.program import pgkeep_program
from tests.server_user import run_as_server_user, scrubbed_environment
from tests.servers import PgServer, new_directory


@dataclass
class Pgkeep:
    """Runs commands as the server's user unless told otherwise; settings by environment."""

    root: Path = field(default_factory=lambda: new_directory("cli"))
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.repository = self.root / "repository"
        self.state = self.root / "state"
        self.secret, self.public = age.generate_identity()
        self.environ = {
            "PGKEEP_REPO": f"file://{self.repository}",
            "PGKEEP_STATE": str(self.state),
            **self.environ,
        }

    def of(self, server: PgServer) -> Pgkeep:
        """The same, connected to a server."""
        self.environ.update(
            {name: value for name, value in server.env.items() if name.startswith("PG")}
        )
        return self

    def __call__(
        self,
        *arguments: str | Path,
        code: int | None = 0,
        as_root: bool = False,
        environ: Mapping[str, str] | None = None,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; AssertionError unless it exits with ``code`` and without a traceback."""
        whole = self.environ if environ is None else environ
        env = scrubbed_environment({**whole, **variables})
        argv = [pgkeep_program(), *arguments]
        if as_root:
            done = subprocess.run(
                [*map(str, argv)], env=env, capture_output=True, text=True, timeout=120, check=False
            )
        else:
            done = run_as_server_user(argv, env=env, check=False)
        said = f"{done.args}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert code is None or done.returncode == code, said
        assert "Traceback" not in done.stderr, said
        return done

    def json(self, *arguments: str | Path, **options: Any) -> Any:
        """The JSON document that a command prints; exactly one, whatever happens."""
        return json.loads(self(*arguments, "--json", **options).stdout)
