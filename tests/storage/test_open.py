"""A repository's URL opens the directory that it names, or says what to write instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pgkeep.errors import ConfigError, StoreUnavailable
from pgkeep.storage import open_store
from pgkeep.storage.open import file_url, local_path


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///var/backups", "/var/backups"),
        ("FILE:///var/backups", "/var/backups"),
        ("file:/var/backups", "/var/backups"),
        ("file://localhost/var/backups", "/var/backups"),
        ("file:///var//./backups/", "/var/backups"),
        ("file:///a%20b/%C3%A4%3F%25", "/a b/ä?%"),
        ("file:///not-utf8/%FF", "/not-utf8/\udcff"),
        ("/var/backups/", "/var/backups"),
        ("/a b/100%/what?", "/a b/100%/what?"),
        ("/file:///x", "/file:/x"),
    ],
)
def test_these_urls_name_directories(url: str, path: str) -> None:
    assert local_path(url) == path
    assert local_path(file_url(path)) == path


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "neither a URL nor an absolute path"),
        ("backups", "neither a URL nor an absolute path"),
        ("./backups", "neither a URL nor an absolute path"),
        ("file:backups", "absolute path"),
        ("file://backups/pg", "file:///backups/pg"),
        ("file://host", "host"),
        ("file:///", "root directory"),
        ("/", "root directory"),
        ("/.", "root directory"),
        ("file:///a/../b", "no '..'"),
        ("file:///a/%2E%2E/b", "no '..'"),
        ("/a/../b", "no '..'"),
        ("/a\0b", "NUL"),
        ("file:///a%00b", "NUL"),
        ("file:///a%zz", "%25"),
        ("file:///a%2", "%25"),
        ("file:///a?b", "%3F"),
        ("file:///a#b", "%23"),
        ("sftp://host/path", "names no user"),
        ("flie:///var/backups", "nearest known one is file://"),
        ("gcs://bucket", "nearest known one is gs://"),
        ("http://host/path", "unknown scheme http://"),
    ],
)
def test_these_urls_are_refused_with_a_remedy(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        open_store(url, create=True)
    assert says in str(caught.value)
    assert caught.value.remedy


def test_a_store_is_made_only_when_asked(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/new%20repository"
    with pytest.raises(StoreUnavailable):
        open_store(url)
    assert not (tmp_path / "new repository").exists()
    store = open_store(url, create=True)
    store.put("a", b"x")
    assert store.url == url
    assert open_store(str(tmp_path / "new repository")).get("a") == b"x"


def test_opening_and_asking_imports_nothing_heavy(tmp_path: Path) -> None:
    program = f"""
import sys
from pgkeep.storage import open_store
from pgkeep.storage.retry import RetryingStore
store = RetryingStore(open_store({str(tmp_path)!r}, create=True), deadline_seconds=10)
store.put("a", b"x", if_absent=True)
heavy = "dataclasses inspect pathlib urllib.parse random tempfile logging subprocess threading"
heavy += " concurrent.futures ctypes hashlib json difflib shutil socket ast"
print([name for name in heavy.split() if name in sys.modules])
"""
    # -S: what an environment's own start files import is not ours to answer for.
    source = str(Path(open_store.__code__.co_filename).parents[2])
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_opening_an_object_store_imports_little_more() -> None:
    program = """
import sys
from pgkeep.storage import open_store
from pgkeep.storage.options import StoreOptions
options = StoreOptions(access_key_id="a", secret_access_key="b", endpoint="http://127.0.0.1:9")
store = open_store("s3://bucket/prefix", options)
try:
    store.put("a", b"x", if_absent=True)
except Exception as error:
    assert type(error).__name__ == "StoreUnavailable", error
heavy = "dataclasses inspect pathlib urllib.parse random tempfile logging subprocess threading"
heavy += " concurrent.futures ctypes hashlib json difflib shutil ssl botocore asyncio"
print([name for name in heavy.split() if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
