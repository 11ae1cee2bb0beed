"""Object stores that others wrote, and a proxy that disturbs connections, built once.

    python3 -m tools.object_servers [NAME …]      build them (all) and print where they are

Each lies in a folder outside the checkout that bears its version, so a second run finds it. Go's
and npm's own caches are used as they are set; where there is no compiler, or no network, the reason
is told, and whoever wanted the server decides what that means.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_GO = (1, 24)
_NODE = 20


class Unavailable(Exception):
    """The server cannot be had here; the text says why."""


class NoToolchain(Unavailable):
    """Nothing here can build it: the machine's compiler is missing or too old."""


@dataclass(frozen=True)
class ObjectServer:
    """``source`` is what the installer is given; ``program`` the file that it makes."""

    name: str
    kind: str
    source: str
    version: str
    program: str

    @property
    def folder(self) -> Path:
        return cache_folder() / f"{self.name}-{self.version}"

    @property
    def path(self) -> Path:
        return self.folder / self.program


SERVERS = {
    server.name: server
    for server in (
        ObjectServer(
            "versitygw", "go", "github.com/versity/versitygw/cmd/versitygw", "v1.8.0", "versitygw"
        ),
        ObjectServer(
            "minio", "go", "github.com/minio/minio", "v0.0.0-20260212201848-7aac2a2c5b7c", "minio"
        ),
        ObjectServer(
            "fake-gcs-server",
            "go",
            "github.com/fsouza/fake-gcs-server",
            "v1.56.1",
            "fake-gcs-server",
        ),
        ObjectServer(
            "toxiproxy", "go", "github.com/Shopify/toxiproxy/v2/cmd/server", "v2.5.0", "server"
        ),
        ObjectServer("azurite", "npm", "azurite", "3.37.0", "node_modules/.bin/azurite-blob"),
    )
}


def cache_folder() -> Path:
    """Where built servers are kept: ``TEST_OBJECT_SERVERS``, else the user's cache."""
    given = os.environ.get("TEST_OBJECT_SERVERS")
    if given:
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "pgkeep-test-servers"


def provide(name: str) -> Path:
    """The server's program, built if need be. Raises ``Unavailable``."""
    server = SERVERS[name]
    if server.path.exists():
        return server.path
    _check_tool(server)
    with _locked(server):
        if not server.path.exists():
            _build(server)
    return server.path


def _check_tool(server: ObjectServer) -> None:
    if server.kind == "go":
        _check_version("go", ["go", "version"], r"go(\d+)\.(\d+)", _GO)
    else:
        _check_version("node", ["node", "--version"], r"v(\d+)", (_NODE,))
        if shutil.which("npm") is None:
            raise NoToolchain("npm is not installed")


def _check_version(tool: str, argv: list[str], pattern: str, least: tuple[int, ...]) -> None:
    if shutil.which(tool) is None:
        raise NoToolchain(f"{tool} is not installed")
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    found = re.search(pattern, said)
    version = tuple(int(part) for part in found.groups()) if found else ()
    if version < least:
        wanted = ".".join(map(str, least))
        raise NoToolchain(f"{tool} {wanted} or newer is needed, and here is: {said.strip()}")


def _build(server: ObjectServer) -> None:
    """Into a folder beside, which then gets the name: what is there is whole."""
    staging = server.folder.with_name(f"{server.folder.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    argv = ["go", "install", "-ldflags=-s -w", f"{server.source}@{server.version}"]
    extra = {
        "GOBIN": str(staging),
        "GOFLAGS": "-trimpath -buildvcs=false",
        "CGO_ENABLED": "0",
    }
    if server.kind == "npm":
        argv = ["npm", "install", "--no-audit", "--no-fund", "--omit=dev", "--ignore-scripts"]
        argv += ["--prefix", str(staging), f"{server.source}@{server.version}"]
        extra = {}
    done = subprocess.run(
        argv, env={**os.environ, **extra}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise Unavailable(f"{' '.join(argv[:2])} failed: {' '.join(said[-3:])}")
    staging.rename(server.folder)


@contextmanager
def _locked(server: ObjectServer) -> Iterator[None]:
    cache_folder().mkdir(parents=True, exist_ok=True)
    with open(cache_folder() / f"{server.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(names: list[str]) -> int:
    """Build the named ones; 1 if one cannot be had although it could be built."""
    status = 0
    for name in names or SERVERS:
        try:
            print(f"used     {name}: {provide(name)}", flush=True)
        except Unavailable as reason:
            print(f"skipped  {name}: {reason}", flush=True)
            status = status if isinstance(reason, NoToolchain) else 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
