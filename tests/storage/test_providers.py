"""What is sent with the settings that docs/reference/providers.md shows, to a recorder.

The settings are read from the page, so it and the test cannot drift apart. The recorder stands as
an HTTP proxy before the provider's host, so what is asked is what the provider would be asked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from pgkeep.cli.store_settings import store_options
from pgkeep.config import load_settings
from pgkeep.errors import StoreError
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.object_url import parse_object_url
from pgkeep.storage.options import StoreOptions
from tests.object_stores import KEY, SECRET
from tests.storage.scripted import Answer, Asked, Scripted, scripted_server

_PAGE = Path(__file__).parents[2] / "docs/reference/providers.md"
_SECTION = re.compile(r"^## (.+)\n\n\*(.+)\.\*\n\n```\n((?:export .+\n)+)```\n\n((?:.+\n)+)", re.M)
_LIST = b"<ListBucketResult><Name>acme-backups</Name><KeyCount>0</KeyCount></ListBucketResult>"
_MARKS = {"Tested here", "From the provider's page, request recorded"}
# All that may be sent; anything more is a header that somebody may refuse.
_ALLOWED = {
    *("authorization", "host", "accept", "user-agent", "content-length", "range", "if-none-match"),
    *("if-match", "x-amz-date", "x-amz-content-sha256", "x-amz-storage-class", "content-type"),
}

# Addressing and region as each provider's page asks for them; the class where one is shown.
_EXPECTED = {
    "Amazon S3": ("acme-backups.s3.eu-central-1.amazonaws.com", "eu-central-1", "STANDARD_IA"),
    "Backblaze B2": ("s3.eu-central-003.backblazeb2.com", "eu-central-003", None),
    "Cloudflare R2": (f"{'0123456789abcdef' * 2}.r2.cloudflarestorage.com", "auto", None),
    "Hetzner": ("fsn1.your-objectstorage.com", "fsn1", None),
    "Scaleway": ("acme-backups.s3.nl-ams.scw.cloud", "nl-ams", None),
    "Wasabi": ("s3.eu-central-2.wasabisys.com", "eu-central-2", None),
    "MinIO": ("minio.example.com:9000", "us-east-1", None),
    "Garage": ("garage.example.com", "garage", None),
    "Ceph": ("rgw.example.com", "us-east-1", None),
    "SeaweedFS": ("seaweed.example.com:8333", "us-east-1", None),
}


def _sections() -> dict[str, tuple[str, dict[str, str], str]]:
    """Mark, variables and facts of each provider, by name."""
    found = {}
    for name, mark, block, facts in _SECTION.findall(_PAGE.read_text()):
        found[name] = (mark, dict(re.findall(r"export (\w+)=(.+)", block)), facts)
    return found


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    with scripted_server() as script:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, script.endpoint)
        for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        yield script


def _shown(name: str) -> tuple[str, StoreOptions]:
    """URL and options of the page, with keys, and without the files that are examples."""
    variables = {**_sections()[name][1]}
    variables |= {"PGKEEP_ACCESS_KEY_ID": KEY, "PGKEEP_SECRET_ACCESS_KEY": SECRET}
    settings = load_settings(variables)
    options = store_options(settings)
    assert options is not None
    return str(settings.repo), options._replace(ca_file=None, credentials_file=None)


def test_the_page_has_every_provider_with_a_mark_and_a_source() -> None:
    sections = _sections()
    assert {*sections} == {*_EXPECTED, "Google Cloud Storage"}
    headings = re.findall(r"^## (.+)$", _PAGE.read_text(), re.M)
    assert headings == [*sections]
    for mark, _, facts in sections.values():
        assert mark in _MARKS
        assert mark == "Tested here" or "](https://" in facts


@pytest.mark.parametrize("name", _EXPECTED)
def test_what_is_sent_is_what_the_page_says(name: str, recorder: Scripted) -> None:
    host, region, storage_class = _EXPECTED[name]
    url, options = _shown(name)
    if options.endpoint is None:
        # Encrypted, the requests cannot be seen; they are the same without.
        options = options._replace(
            endpoint=f"http://s3.{options.region}.amazonaws.com", addressing="virtual"
        )
    plain = str(options.endpoint).replace("https://", "http://")
    store = ObjectStore(parse_object_url(url), options._replace(endpoint=plain))
    asked = _ask_everything(store, recorder)
    bucket = "" if host.startswith("acme-backups.") else "/acme-backups"
    for request in asked:
        sent = urlsplit(request.path)
        assert sent.netloc == host
        assert request.headers["host"] == host
        assert f"/{region}/s3/aws4_request" in request.headers["authorization"]
        assert not {*request.headers} - _ALLOWED
    put, create, swap, get, listing, delete = asked
    for request in (put, create, swap, get, delete):
        assert urlsplit(request.path).path == f"{bucket}/pg/a"
    assert urlsplit(listing.path).path.rstrip("/") == bucket
    assert "list-type=2" in listing.path
    for request in (put, create, swap):
        assert request.headers.get("x-amz-storage-class") == storage_class
    assert "x-amz-storage-class" not in get.headers
    _check_conditions(put, create, swap, "if-none-match", "*", "if-match", '"etag"')


def test_amazons_host_is_the_buckets_in_its_region(recorder: Scripted) -> None:
    """Through HTTPS_PROXY, to which only the host is told."""
    recorder.answers = [Answer(502)]
    url, options = _shown("Amazon S3")
    with suppress(StoreError):
        ObjectStore(parse_object_url(url), options).get("a")
    assert [(asked.method, asked.path) for asked in recorder.asked] == [
        ("CONNECT", f"{_EXPECTED['Amazon S3'][0]}:443")
    ]


def test_google_is_asked_in_its_own_words(
    recorder: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, options = _shown("Google Cloud Storage")
    login = {"disable_oauth": True, "client_email": "", "private_key": "", "private_key_id": ""}
    account = tmp_path / "account.json"
    account.write_text(json.dumps({**login, "gcs_base_url": "http://storage.googleapis.com"}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(account))
    store = ObjectStore(
        parse_object_url(url), options._replace(endpoint="http://storage.googleapis.com")
    )
    recorder.answers = [Answer(headers=(("ETag", '"etag"'), ("x-goog-generation", "7")))]
    store.put("a", b"x", if_absent=True)
    (create,) = recorder.asked
    assert unquote(create.path) == "http://storage.googleapis.com/acme-backups/pg/a"
    assert create.headers["x-goog-if-generation-match"] == "0"
    assert create.headers["x-goog-storage-class"] == "NEARLINE"


def test_a_host_in_no_proxy_is_asked_directly(
    recorder: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, options = _shown("MinIO")
    with scripted_server() as direct:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        store = ObjectStore(parse_object_url(url), options._replace(endpoint=direct.endpoint))
        store.put("a", b"x")
        assert len(direct.asked) == 1
    assert not recorder.asked


def _ask_everything(store: ObjectStore, recorder: Scripted) -> list[Asked]:
    """A put, a create, a swap, a get, a list and a delete; what each was seen to ask."""
    known = (("ETag", '"etag"'), ("Last-Modified", "Wed, 25 Nov 2026 10:00:00 GMT"))
    recorder.answers = [
        *(Answer(headers=known) for _ in range(4)),
        Answer(body=_LIST),
        Answer(204),
    ]
    store.put("a", b"x")
    store.put("a", b"x", if_absent=True)
    store.replace("a", b"x", etag='"etag"')
    store.get("a")
    assert [*store.list()] == []
    assert store.delete(["a"]) == {"a": None}
    assert [asked.method for asked in recorder.asked] == [
        "PUT",
        "PUT",
        "PUT",
        "GET",
        "GET",
        "DELETE",
    ]
    return recorder.asked


def _check_conditions(put: Asked, create: Asked, swap: Asked, *expected: str) -> None:
    absent, anything, same, etag = expected
    assert not {absent, same} & {*put.headers}
    assert (create.headers[absent], create.headers.get(same)) == (anything, None)
    assert (swap.headers[same], swap.headers.get(absent)) == (etag, None)
