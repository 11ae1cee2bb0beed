"""An S3 server that others wrote (MinIO, over TLS), behind a proxy that takes its time.

The proxy stands before it in all runs, so that what it costs by itself is the same for everybody;
its latency is added to each answer.
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.context import empty
from bench.peers import BenchError
from bench.server import run_tool

BUCKET, KEY, SECRET = "backups", "benchmark", "benchmark-secret"
PROGRAMS = ("minio", "toxiproxy")
_START_SECONDS = 60
_COUNTED_SECONDS = 12  # it counts anew every ten
_REQUESTS = re.compile(r"^minio_s3_requests_total\{[^}]*\} (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class S3Server:
    """The server as clients see it: through the proxy at ``port``, by a certificate of its own."""

    home: Path
    port: int
    own_port: int
    control_port: int

    @property
    def certificate(self) -> Path:
        return self.home / "certs" / "public.crt"

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def delay(self, milliseconds: int) -> None:
        """Let each answer come so much later."""
        _ask(self.control_port, "POST", "/reset", {})
        if milliseconds:
            toxic = {"type": "latency", "stream": "downstream"}
            toxic_of = {**toxic, "attributes": {"latency": milliseconds}}
            _ask(self.control_port, "POST", "/proxies/s3/toxics", toxic_of)

    def requests(self) -> int:
        """How many requests of S3 it has answered so far; takes a while to tell."""
        time.sleep(_COUNTED_SECONDS)
        place = f"https://127.0.0.1:{self.own_port}/minio/v2/metrics/cluster"
        context = ssl.create_default_context(cafile=str(self.certificate))
        with urllib.request.urlopen(place, timeout=10, context=context) as answer:
            text = answer.read().decode()
        return sum(int(float(number)) for number in _REQUESTS.findall(text))


@contextmanager
def running_s3(work: Path) -> Iterator[S3Server]:
    """Started, and stopped at the end. Raises BenchError."""
    home = empty(work / "s3")
    server = S3Server(home, *(_free_port() for _ in range(3)))
    _certify(home / "certs")
    (home / "data" / BUCKET).mkdir(parents=True)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "MINIO_ROOT_USER": KEY,
        "MINIO_ROOT_PASSWORD": SECRET,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_PROMETHEUS_AUTH_TYPE": "public",
    }
    minio = [work / "bin" / "minio", "server", "--quiet", "--certs-dir", home / "certs"]
    minio += ["--address", f"127.0.0.1:{server.own_port}", home / "data"]
    proxy = [work / "bin" / "toxiproxy", "-host", "127.0.0.1", "-port", server.control_port]
    started: list[subprocess.Popen[bytes]] = []
    try:
        for name, argv in (("minio", minio), ("toxiproxy", proxy)):
            with open(home / f"{name}.log", "wb") as log:
                started.append(
                    subprocess.Popen(
                        [str(word) for word in argv], env=environ, stdout=log, stderr=log
                    )
                )
        _wait(server.requests)
        upstream = {"name": "s3", "upstream": f"127.0.0.1:{server.own_port}", "enabled": True}
        wanted = {**upstream, "listen": f"127.0.0.1:{server.port}"}
        _wait(lambda: _ask(server.control_port, "POST", "/proxies", wanted))
        yield server
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()


def _certify(folder: Path) -> None:
    folder.mkdir(parents=True)
    key, certificate = folder / "private.key", folder / "public.crt"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    words += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    words += ["-addext", "basicConstraints=critical,CA:FALSE"]
    run_tool([*words, "-keyout", str(key), "-out", str(certificate)], {})


def _ask(port: int, method: str, path: str, body: object) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}",
        method=method,
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=10).close()


def _wait(ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            ready()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchError(f"The S3 server did not start: {error}") from error
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
