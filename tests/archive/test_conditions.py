"""A store that ignores the condition of a create keeps nothing apart by itself: we look first."""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pgkeep.archive.conditions import TRUSTED_SECONDS, with_conditions
from pgkeep.errors import ObjectExists
from pgkeep.repository.identity import create_repository, make_key_set
from pgkeep.repository.system import register_system
from pgkeep.seal import age
from pgkeep.storage._object_trial import try_out
from pgkeep.storage.interface import Buffer, Capabilities
from pgkeep.storage.memory import MemoryStore
from pgkeep.storage.object_store import ObjectStore
from tests.archive.kit import AT, BY, FIRST, DataDirectory, Host
from tests.object_stores import object_service


class CountingStore(MemoryStore):
    """Says that it is behind a network, and counts what it is asked to store."""

    heeds = True

    def __init__(self) -> None:
        super().__init__()
        self.url = "s3://bucket/place"
        self.puts = 0

    @property
    def capabilities(self) -> Capabilities:
        return try_out(self)

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        self.puts += 1
        return super().put(key, data, if_absent=if_absent and self.heeds)


class IgnoringStore(CountingStore):
    heeds = False


def test_a_store_that_heeds_conditions_is_used_as_it_is(tmp_path: Path) -> None:
    store = CountingStore()
    assert with_conditions(store, tmp_path / "notes") is store
    assert not list(store.list())


def test_one_that_ignores_them_is_looked_at_first(tmp_path: Path) -> None:
    found = with_conditions(IgnoringStore(), tmp_path / "notes")
    found.put("a", b"first", if_absent=True)
    with pytest.raises(ObjectExists):
        found.put("a", b"second", if_absent=True)
    assert found.get("a") == b"first"
    found.put("a", b"third")
    assert found.get("a") == b"third"


@pytest.mark.parametrize("kind", [CountingStore, IgnoringStore])
def test_what_was_found_out_is_remembered_for_a_while(
    tmp_path: Path, kind: type[CountingStore]
) -> None:
    first = with_conditions(kind(), tmp_path)
    later = kind()
    assert type(with_conditions(later, tmp_path)) is type(first)
    assert later.puts == 0
    (note,) = tmp_path.iterdir()
    past = time.time() - TRUSTED_SECONDS - 1
    os.utime(note, (past, past))
    with_conditions(later, tmp_path)
    assert later.puts > 0


def test_a_note_that_was_never_finished_counts_as_none(tmp_path: Path) -> None:
    with_conditions(IgnoringStore(), tmp_path)
    (note,) = tmp_path.iterdir()
    note.write_bytes(b"")
    store = IgnoringStore()
    assert with_conditions(store, tmp_path) is not store
    assert store.puts > 0


def test_who_can_remember_nothing_tries_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = IgnoringStore()
    assert with_conditions(store, tmp_path / "file" / "notes") is store
    assert store.puts == 0


@contextmanager
def ignoring_gateway(endpoint: str) -> Iterator[str]:
    """A gateway that loses the conditions of every request on its way to a real server."""
    server_at = urlsplit(endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kept = {n: v for n, v in self.headers.items() if not n.lower().startswith("if-")}
            connection = http.client.HTTPConnection(server_at, timeout=30)
            connection.request(self.command, self.path, body, kept)
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            connection.close()

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_other_content_under_a_stored_name_is_refused_though_the_store_would_overwrite(
    request: pytest.FixtureRequest, host: Host, data: DataDirectory
) -> None:
    running = object_service(request, "moto")
    place = running.new_place()
    with ignoring_gateway(str(running.options.endpoint)) as endpoint:
        options = running.options._replace(endpoint=endpoint)
        store = ObjectStore(place, options)
        assert not store.capabilities.conditional_create
        create_repository(store, make_key_set([age.generate_identity()[1]], None), at=AT, by=BY)
        system = data.control.system_identifier
        register_system(store, "main", system, postgres_major=18, new_system=False, at=AT, by=BY)
        host.configure(
            repo=store.url,
            endpoint=endpoint,
            access_key_id=options.access_key_id,
            secret_access_key=options.secret_access_key,
        )
        key = host.layout(data.path).wal_file(FIRST)

        mine = data.add_segment(FIRST, fill=b"of the first server ")
        assert host.push(data.path, FIRST).returncode == 0
        stored = store.get(key)
        data.add_segment(FIRST, fill=b"of the second server ")
        refused = host.push(data.path, FIRST)

        assert refused.returncode == 31, refused.stderr
        assert store.get(key) == stored
        data.add_file(FIRST, mine)
        assert host.push(data.path, FIRST).returncode == 0


def test_what_was_found_out_long_ago_holds_where_nothing_new_can_be_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_conditions(IgnoringStore(), tmp_path)
    (note,) = tmp_path.iterdir()
    past = time.time() - TRUSTED_SECONDS - 1
    os.utime(note, (past, past))

    def refuse(*_: object, **__: object) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    store = IgnoringStore()
    assert with_conditions(store, tmp_path) is not store
    assert store.puts == 0
