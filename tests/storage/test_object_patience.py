"""A slow transfer lives, and a dead connection ends."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pgkeep.errors import StoreUnavailable
from pgkeep.storage import _object_client
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions


@contextmanager
def _listener(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A TCP server that treats its first connection as told."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            with listening.accept()[0] as connection:
                connection.settimeout(30)
                serve(connection)
                done.wait(30)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        done.set()
        thread.join()


def _store(endpoint: str) -> ObjectStore:
    keys = StoreOptions(endpoint=endpoint, access_key_id="id", secret_access_key="x")
    return ObjectStore(ObjectPlace("s3", "bucket", ""), keys)


def test_a_read_ends_after_some_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_object_client, "SILENCE_SECONDS", 1)
    with _listener(lambda connection: None) as endpoint:
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="did not answer in time"):
            _store(endpoint).get("a")
        assert 0.9 < time.monotonic() - began < 10


def test_a_read_that_goes_on_slowly_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_object_client, "SILENCE_SECONDS", 1)

    def drip(connection: socket.socket) -> None:
        connection.recv(10_000)
        head = b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\nETag: "e"\r\n'
        connection.sendall(head + b"Last-Modified: Wed, 25 Nov 2026 10:00:00 GMT\r\n\r\n")
        for number in range(8):
            time.sleep(0.3)
            connection.sendall(b"%d" % number)

    with _listener(drip) as endpoint:
        assert _store(endpoint).get("a") == b"01234567"


def test_a_put_has_time_by_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The small one ends; the larger one, as long on its way, is given the time that it needs."""
    monkeypatch.setattr(_object_client, "PUT_SECONDS", ((1000, 1), (1 << 30, 20)))

    def late(connection: socket.socket) -> None:
        time.sleep(2)
        received = b""
        while b"\r\n\r\n" not in received or len(received.partition(b"\r\n\r\n")[2]) < 5000:
            received += connection.recv(100_000)
        connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "e"\r\n\r\n')

    with _listener(lambda connection: None) as endpoint, pytest.raises(StoreUnavailable):
        _store(endpoint).put("a", b"x" * 100)
    with _listener(late) as endpoint:
        assert _store(endpoint).put("a", b"x" * 5000) == '"e"'
