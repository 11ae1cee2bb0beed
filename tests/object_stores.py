"""Object stores that others wrote, running beside the tests: on loopback, on free ports, ours.

Each starts once for a test process and ends with it (see ``warden``). ``moto`` runs in this very
process; the others are programs that ``tools.object_servers`` builds. Where one cannot be had,
``service`` raises ``Unavailable`` with the reason; the fixtures make a skip of it, and with
``CI=true`` a failure, unless the machine has no compiler that is new enough.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pgkeep.storage.create_bucket import create_bucket
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions
from tests.gcs_xml import start_translator
from tests.ports import free_port
from tests.servers import new_directory
from tests.warden import warden
from tools.object_servers import NoToolchain, Unavailable, provide

# Where instances are asked for credentials: to nobody, at once.
NO_METADATA = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
    "GCE_METADATA_HOST": "127.0.0.1:9",
    "GCE_METADATA_IP": "127.0.0.1:9",
    "GCE_METADATA_ROOT": "127.0.0.1:9",
    "AZURE_MSI_ENDPOINT": "http://127.0.0.1:9",
}
KEY, SECRET = "pgkeep-test-user", "pgkeep-test-secret"
_START_SECONDS = 180
_numbers = count(1)
_Found = TypeVar("_Found")


_ON_DISK = Path("/var/tmp")
"""What they store adds up to gigabytes over a run, and TMPDIR may be in memory."""


@dataclass(frozen=True)
class Service:
    """A running object store. ``environ`` is what pgkeep needs to reach it, as variables."""

    name: str
    scheme: str
    options: StoreOptions
    make_bucket: Callable[[str], object]

    def new_place(self) -> ObjectPlace:
        """A prefix in an empty bucket of its own."""
        bucket = f"pgkeep-{os.getpid()}-{next(_numbers)}"
        self.make_bucket(bucket)
        return ObjectPlace(self.scheme, bucket, "team/pg")

    @property
    def environ(self) -> dict[str, str]:
        given = self.options._asdict().items()
        return {f"PGKEEP_{name.upper()}": str(value) for name, value in given if value}


def object_service(request: pytest.FixtureRequest, name: str) -> Service:
    """The running store, or a skip with the reason."""
    return present(request, name, partial(service, name))


def present(request: pytest.FixtureRequest, name: str, start: Callable[[], _Found]) -> _Found:
    """What ``start`` yields, or a skip with the reason if it is ``Unavailable``."""
    try:
        found = start()
    except Unavailable as reason:
        message = f"{name}: {reason}"
        if os.environ.get("CI") == "true" and not isinstance(reason, NoToolchain):
            pytest.fail(message, pytrace=False)
        request.node.user_properties.append(("object store missing", message))
        pytest.skip(message)
    request.node.user_properties.append(("object store", name))
    return found


@cache
def service(name: str) -> Service:
    """Start it, once. Raises ``Unavailable``."""
    starters = {
        "moto": _moto,
        "versitygw": _versitygw,
        "minio": _minio,
        "fake-gcs-server": _fake_gcs,
        "azurite": _azurite,
    }
    return starters[name]()


def _moto() -> Service:
    from moto.server import ThreadedMotoServer

    _quiet_werkzeug()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    return _s3("moto", f"http://127.0.0.1:{server.get_host_and_port()[1]}")


def _versitygw() -> Service:
    program, port = provide("versitygw"), free_port()
    root = new_directory("vgw", root=_ON_DISK)
    environ = {"ROOT_ACCESS_KEY": KEY, "ROOT_SECRET_KEY": SECRET}
    argv = [program, "--port", f"127.0.0.1:{port}", "posix", root]
    start_program("versitygw", argv, port, environ)
    return _s3("versitygw", f"http://127.0.0.1:{port}")


def _minio() -> Service:
    return _s3("minio", f"http://127.0.0.1:{start_minio()}", ready="/minio/health/ready")


def start_minio(*options: str | Path) -> int:
    """MinIO with these options for ``server``, on the port that is returned."""
    program, port, console = provide("minio"), free_port(), free_port()
    root = new_directory("minio", root=_ON_DISK)
    environ = {
        "MINIO_ROOT_USER": KEY,
        "MINIO_ROOT_PASSWORD": SECRET,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_CALLHOME_ENABLE": "off",
    }
    argv = [program, "server", "--quiet", "--address", f"127.0.0.1:{port}"]
    argv += ["--console-address", f"127.0.0.1:{console}", *options, root]
    start_program("minio", argv, port, environ)
    return port


def _fake_gcs() -> Service:
    program, port = provide("fake-gcs-server"), free_port()
    endpoint = f"http://127.0.0.1:{port}"
    argv = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", port]
    argv += ["-backend", "memory", "-public-host", f"127.0.0.1:{port}"]
    start_program("fake-gcs-server", argv, port, {})

    def make_bucket(name: str) -> None:
        request = urllib.request.Request(
            f"{endpoint}/storage/v1/b?project=test",
            data=json.dumps({"name": name}).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()

    # A service account that needs no login, which only the library's own variable can name.
    account = new_directory("gcs") / "account.json"
    front = f"http://127.0.0.1:{start_translator(port)}"
    account.write_text(
        json.dumps(
            {
                "gcs_base_url": front,
                "disable_oauth": True,
                "client_email": "",
                "private_key": "",
                "private_key_id": "",
            }
        )
    )
    os.environ["GOOGLE_SERVICE_ACCOUNT"] = str(account)
    return Service("fake-gcs-server", "gs", StoreOptions(endpoint=front), make_bucket)


def _azurite() -> Service:
    program, port = provide("azurite"), free_port()
    account, key = "pgkeeptest", base64.b64encode(b"a key of the tests, and no secret").decode()
    argv = [program, "--silent", "--blobHost", "127.0.0.1", "--blobPort", port]
    argv += ["--location", new_directory("azurite", root=_ON_DISK), "--disableTelemetry", "--loose"]
    start_program("azurite", argv, port, {"AZURITE_ACCOUNTS": f"{account}:{key}"})
    options = StoreOptions(
        endpoint=f"http://127.0.0.1:{port}/{account}", account=account, account_key=key
    )
    return Service("azurite", "az", options, partial(_create, "az", options))


def _s3(name: str, endpoint: str, *, ready: str | None = None) -> Service:
    options = StoreOptions(endpoint=endpoint, access_key_id=KEY, secret_access_key=SECRET)
    if ready is not None:
        _wait(name, lambda: urllib.request.urlopen(endpoint + ready, timeout=5).close())
    return Service(name, "s3", options, partial(_create, "s3", options))


def _create(scheme: str, options: StoreOptions, name: str) -> bool:
    return create_bucket(ObjectPlace(scheme, name, ""), options)


def start_program(name: str, argv: list[Any], port: int, environ: Mapping[str, str]) -> None:
    """Start a program as our child, and return when it accepts connections."""
    folder = new_directory("log")
    log_path = folder / f"{name}.log"
    with open(log_path, "wb") as log:
        process = subprocess.Popen(
            [str(part) for part in argv],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), **environ},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    warden().keep_process(process.pid)
    _children.append(process)

    def accepts() -> None:
        if process.poll() is not None:
            raise Unavailable(f"it ended at once: {_tail(log_path)}")
        socket.create_connection(("127.0.0.1", port), timeout=1).close()

    _wait(name, accepts)


def _wait(name: str, ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            ready()
            return
        except (OSError, urllib.error.URLError) as error:
            if time.monotonic() > deadline:
                raise Unavailable(f"{name} did not start within {_START_SECONDS} s") from error
        time.sleep(0.05)


def _tail(path: Path) -> str:
    return " ".join(path.read_text(errors="replace").split())[-400:]


def _quiet_werkzeug() -> None:
    import logging

    logging.getLogger("werkzeug").setLevel(logging.ERROR)


# Kept, so that none is collected (and warned of) before the warden ends it.
_children: list[subprocess.Popen[bytes]] = []
