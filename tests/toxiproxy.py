"""Toxiproxy between pgkeep and a store: connections that are cut, stand still, crawl, or vanish.

It starts once for a test process and ends with it. Every proxy is a test's own. "Upstream" is the
way to the store, "downstream" the way back, as in toxiproxy's own words; a toxic counts for
connections that are open already, too.
"""

from __future__ import annotations

import json
import random
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from itertools import count
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

from tests.object_stores import Service, object_service, present, start_program
from tests.ports import free_port
from tools.object_servers import provide

UP, DOWN = "upstream", "downstream"
_numbers = count(1)


@dataclass(frozen=True)
class Cutter:
    """One proxy, with which a test does what it likes. ``endpoint`` leads through it."""

    api: str
    name: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def add(self, kind: str, way: str, **attributes: int) -> None:
        """Add a toxic of this kind; one of each kind and way at a time."""
        body = {"name": f"{kind}-{way}", "type": kind, "stream": way, "attributes": attributes}
        self._ask("POST", f"/proxies/{self.name}/toxics", body)

    def heal(self) -> None:
        """Take all toxics away, and listen again. What stood still until now stays cut."""
        for toxic in self._ask("GET", f"/proxies/{self.name}/toxics"):
            self._ask("DELETE", f"/proxies/{self.name}/toxics/{toxic['name']}")
        self._ask("POST", f"/proxies/{self.name}", {"enabled": True})

    def vanish(self) -> None:
        """Cut every connection, and listen no more."""
        self._ask("POST", f"/proxies/{self.name}", {"enabled": False})

    def remove(self) -> None:
        self._ask("DELETE", f"/proxies/{self.name}")

    @contextmanager
    def healed_after(self, seconds: float) -> Iterator[None]:
        """Heal it so many seconds from now, while the block runs."""
        timer = threading.Timer(seconds, self.heal)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        return _ask(self.api, method, path, body)


class Disturber:
    """Cuts connections at random moments in random ways, by a seed; use it in a ``with``.

    ``healthy`` and ``ill`` are how long each lasts, in seconds, from and to. ``strikes`` counts.
    """

    def __init__(
        self,
        cutter: Cutter,
        *,
        seed: int,
        healthy: tuple[float, float] = (0.3, 1.2),
        ill: tuple[float, float] = (0.05, 0.3),
    ) -> None:
        self.strikes = 0
        self._cutter, self._random = cutter, random.Random(seed)
        self._healthy, self._ill = healthy, ill
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="disturber", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._cutter.heal()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while not self._over.wait(self._random.uniform(*self._healthy)):
                self._strike()
                self.strikes += 1
                self._over.wait(self._random.uniform(*self._ill))
                self._cutter.heal()
        except BaseException as error:
            self._error = error

    def _strike(self) -> None:
        bytes_ = self._random.randrange(1 << 20)
        way = self._random.choice((UP, DOWN))
        match self._random.choice(("reset", "half", "vanish")):
            case "reset":
                self._cutter.add("reset_peer", way, timeout=self._random.randrange(50))
            case "half":
                self._cutter.add("limit_data", way, bytes=bytes_)
            case _:
                self._cutter.vanish()


def behind(request: pytest.FixtureRequest, name: str) -> tuple[Service, Cutter]:
    """The named store (an S3) and a new proxy before it; a skip with the reason without."""
    api = present(request, "toxiproxy", _api)
    service = object_service(request, name)
    cutter = Cutter(api, f"test-{next(_numbers)}", free_port())
    upstream = urlsplit(service.options.endpoint or "").netloc
    body = {"name": cutter.name, "listen": f"127.0.0.1:{cutter.port}", "upstream": upstream}
    _ask(api, "POST", "/proxies", {**body, "enabled": True})
    return replace(service, options=service.options._replace(endpoint=cutter.endpoint)), cutter


@cache
def _api() -> str:
    port = free_port()
    argv = [provide("toxiproxy"), "-host", "127.0.0.1", "-port", port]
    start_program("toxiproxy", argv, port, {"LOG_LEVEL": "error"})
    return f"http://127.0.0.1:{port}"


def _ask(api: str, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(api + path, data=data, method=method)
    request.add_header("Content-Type", "application/json")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
        request, timeout=10
    ) as answer:
        said = answer.read()
    return json.loads(said) if said else None
