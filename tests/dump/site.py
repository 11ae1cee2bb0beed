"""A server, a repository that knows it, and the ``pgkeep dump`` commands as a user calls them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.cli.kit import Pgkeep
from tests.factory import ServerFactory
from tests.installations import find_installations
from tests.server_user import server_user
from tests.servers import PgServer


class DumpSite:
    """``server`` is what is dumped; ``other`` makes servers to restore into."""

    def __init__(self, factory: ServerFactory, *, sealed: bool = True, **server: Any) -> None:
        self.factory = factory
        self.server: PgServer = factory(**server)
        self.pgkeep = Pgkeep().of(self.server)
        self.pgkeep.environ["PGKEEP_PG_BIN"] = ":".join(
            str(one.bin_dir) for one in find_installations().values()
        )
        self.identity = self.write("identity", self.pgkeep.secret + "\n")
        way = ["--recipient", self.pgkeep.public] if sealed else ["--no-encryption"]
        self.pgkeep("init", *way)
        if sealed:
            self.pgkeep.environ["PGKEEP_IDENTITY"] = str(self.identity)

    def write(self, name: str, text: str) -> Path:
        path = self.pgkeep.root / name
        path.write_text(text)
        path.chmod(0o600)
        return server_user().own(path)

    def dump(self, *arguments: str, code: int = 0, **options: Any) -> dict[str, Any]:
        """Make a dump; its contents as JSON."""
        found: dict[str, Any] = self.pgkeep.json("dump", "create", *arguments, code=code, **options)
        return found

    def other(self, **options: Any) -> PgServer:
        """Another empty server of the same installation."""
        return self.factory(**options)

    def at(self, server: PgServer) -> dict[str, Any]:
        """Variables by which a command means this server."""
        return {name: value for name, value in server.env.items() if name.startswith("PG")}

    def files(self) -> list[Path]:
        """All stored files under dumps/."""
        place = self.pgkeep.repository / "main"
        return sorted(path for path in place.glob("*/dumps/**/*") if path.is_file())
