"""What a store answers becomes the right error, and what is sent to it is what was set."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from pgkeep.errors import (
    ObjectExists,
    ObjectNotFound,
    PreconditionFailed,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnavailable,
)
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions
from tests.object_stores import KEY, SECRET, object_service
from tests.ports import free_port
from tests.storage.scripted import Answer, Scripted, scripted_server

PLACE = ObjectPlace("s3", "bucket", "pg")
EMPTY_LIST = b"<ListBucketResult><Name>bucket</Name><KeyCount>0</KeyCount></ListBucketResult>"


@pytest.fixture
def script() -> Iterator[Scripted]:
    with scripted_server() as script:
        yield script


def _store(endpoint: str, **options: str) -> ObjectStore:
    keys = {"access_key_id": KEY, "secret_access_key": SECRET}
    return ObjectStore(PLACE, StoreOptions(endpoint=endpoint, **{**keys, **options}))


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "RequestTimeout", StoreUnavailable),
        (400, "BadDigest", StoreUnavailable),
        (400, "ExpiredToken", StoreDenied),
        (400, "AuthorizationHeaderMalformed", StoreError),
        (400, "InvalidArgument", StoreError),
        (401, "", StoreDenied),
        (403, "AccessDenied", StoreDenied),
        (403, "InvalidAccessKeyId", StoreDenied),
        (403, "RequestTimeTooSkewed", StoreDenied),
        (403, "QuotaExceeded", StoreFull),
        (409, "OperationAborted", StoreUnavailable),
        (409, "ConditionalRequestConflict", StoreUnavailable),
        (409, "BlobImmutableDueToPolicy", StoreDenied),
        (409, "ObjectParentIsFile", StoreError),
        (429, "", StoreUnavailable),
        (500, "", StoreUnavailable),
        (501, "", StoreError),
        (503, "SlowDown", StoreUnavailable),
        (507, "", StoreFull),
    ],
)
def test_an_answer_becomes_its_error(
    script: Scripted, status: int, code: str, kind: type[StoreError]
) -> None:
    script.answers = [Answer(status, code)]
    store = _store(script.endpoint)
    requests = (
        lambda: store.put("a", b"x"),
        lambda: store.put("a", b"x", if_absent=True),
        lambda: store.replace("a", b"x", etag="e"),
        lambda: store.get("a"),
        lambda: store.get_range("a", 0, 5),
        lambda: store.get_ranges("a", [(0, 5)]),
        lambda: [*store.list()],
        lambda: _raise(store.delete(["a"])["a"]),
    )
    for request in requests:
        if code == "ObjectParentIsFile" and request is requests[2]:
            continue  # asked again, whether the object is there at all
        with pytest.raises(StoreError) as caught:
            request()
        assert type(caught.value) is kind
        assert PLACE.url in caught.value.what
        assert caught.value.remedy
        assert str(status) in str(caught.value.why)


def test_only_a_taken_name_is_called_taken(script: Scripted) -> None:
    store = _store(script.endpoint)
    for answer in (Answer(412, "PreconditionFailed"), Answer(409, "BlobAlreadyExists")):
        script.answers = [answer]
        with pytest.raises(ObjectExists):
            store.put("a", b"x", if_absent=True)
    script.answers = [Answer(412, "PreconditionFailed")]
    with pytest.raises(StoreError) as caught:
        store.put("a", b"x")
    assert not isinstance(caught.value, ObjectExists)


def test_a_store_without_conditions_is_looked_at_first(script: Scripted) -> None:
    """And is not believed to create only what is absent, since between the two somebody may."""
    store, empty = _store(script.endpoint), Answer(200, body=EMPTY_LIST)
    script.answers = [Answer(501, "NotImplemented"), Answer(404), empty, Answer()]
    assert store.put("a", b"x", if_absent=True) == '"etag"'
    assert [asked.method for asked in script.asked] == ["PUT", "HEAD", "GET", "PUT"]
    assert "if-none-match" not in script.asked[-1].headers
    script.answers = [
        Answer(headers=(("ETag", '"x"'), ("Last-Modified", "Wed, 25 Nov 2026 10:00:00 GMT")))
    ]
    with pytest.raises(ObjectExists):
        store.put("a", b"y", if_absent=True)
    assert [asked.method for asked in script.asked[4:]] == ["HEAD"]
    capabilities = store.capabilities
    assert not capabilities.conditional_create
    assert not capabilities.compare_and_swap


def test_a_missing_bucket_is_no_missing_object(script: Scripted) -> None:
    script.answers = [Answer(404, "NoSuchBucket")]
    store = _store(script.endpoint)
    for request in (
        lambda: store.get("a"),
        lambda: store.head("a"),
        lambda: store.get_range("a", 0, 1),
        lambda: store.put("a", b""),
        lambda: store.put("a", b"", if_absent=True),
        lambda: store.replace("a", b"", etag="e"),
        lambda: [*store.list()],
        lambda: _raise(store.delete(["a"])["a"]),
    ):
        with pytest.raises(StoreError, match="no bucket bucket") as caught:
            request()
        assert type(caught.value) is StoreError
        assert "--create-bucket" in str(caught.value.remedy)


def test_a_404_that_does_not_say_of_what_is_asked_about(script: Scripted) -> None:
    store = _store(script.endpoint)
    nothing = Answer(404)
    script.answers = [nothing, Answer(200, body=EMPTY_LIST)]
    with pytest.raises(ObjectNotFound):
        store.head("a")
    assert [asked.method for asked in script.asked] == ["HEAD", "GET"]
    script.answers = [nothing, nothing]
    with pytest.raises(StoreError, match="no bucket"):
        store.head("a")
    script.answers = [nothing, Answer(403, "AccessDenied")]
    with pytest.raises(StoreDenied):
        store.head("a")
    script.answers = [nothing, Answer(503)]
    with pytest.raises(StoreUnavailable):
        store.head("a")


def test_a_swap_is_lost_only_to_what_is_there(script: Scripted) -> None:
    store = _store(script.endpoint)
    there = Answer(headers=(("ETag", '"x"'), ("Last-Modified", "Wed, 25 Nov 2026 10:00:00 GMT")))
    script.answers = [Answer(412, "PreconditionFailed"), there]
    with pytest.raises(PreconditionFailed):
        store.replace("a", b"x", etag="e")
    script.answers = [Answer(412), Answer(404), Answer(200, body=EMPTY_LIST)]
    with pytest.raises(ObjectNotFound):
        store.replace("a", b"x", etag="e")
    script.answers = [Answer(404, "NoSuchKey")]
    with pytest.raises(ObjectNotFound):
        store.replace("a", b"x", etag="e")


def test_a_skewed_clock_is_named_with_its_difference(script: Scripted) -> None:
    theirs = (datetime.now(UTC) - timedelta(minutes=42)).strftime("%Y-%m-%dT%H:%M:%SZ")
    body = f"<Error><Code>RequestTimeTooSkewed</Code><ServerTime>{theirs}</ServerTime></Error>"
    script.answers = [Answer(403, body=body.encode())]
    with pytest.raises(StoreDenied, match="42 min ahead of the store's"):
        _store(script.endpoint).get("a")


def test_a_wrong_region_is_told_with_the_right_one(script: Scripted) -> None:
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-3</Region></Error>"
    script.answers = [Answer(400, body=body)]
    with pytest.raises(StoreError, match="PGKEEP_REGION to eu-west-3"):
        _store(script.endpoint).get("a")


def test_what_does_not_answer_may_pass(script: Scripted) -> None:
    script.answers = [Answer(cut=True)]
    for store in (_store(script.endpoint), _store(f"http://127.0.0.1:{free_port()}")):
        with pytest.raises(StoreUnavailable):
            store.get("a")
        with pytest.raises(StoreUnavailable):
            store.put("a", b"x", if_absent=True)
        assert isinstance(store.delete(["a"])["a"], StoreUnavailable)
    with pytest.raises(StoreUnavailable, match="Nobody listens there"):
        store.get("a")


def test_a_tls_handshake_that_is_cut_may_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:
        plain.settimeout(10)
        store = _store(f"https://127.0.0.1:{plain.getsockname()[1]}")
        import threading

        def hang_up() -> None:
            plain.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(StoreUnavailable):
            store.get("a")
        thread.join()


def test_without_credentials_it_is_said_where_they_may_be_set() -> None:
    """The places where instances have theirs lead nowhere in a test (see ``NO_METADATA``)."""
    store = ObjectStore(PLACE, StoreOptions(endpoint="http://127.0.0.1:9"))
    with pytest.raises(StoreUnavailable, match="No credentials are set"):
        store.get("a")


def test_a_failed_request_is_made_once(script: Scripted) -> None:
    script.answers = [Answer(503)]
    store = _store(script.endpoint)
    with pytest.raises(StoreUnavailable):
        store.get("a")
    with pytest.raises(StoreUnavailable):
        store.put("a", b"x")
    assert len(script.asked) == 2


def test_no_secret_is_in_any_message(script: Scripted) -> None:
    token = "T" * 40
    body = (
        f"<Error><Code>SignatureDoesNotMatch</Code><Message>No.</Message>"
        f"<StringToSign>{SECRET} {token}</StringToSign></Error>"
    )
    script.answers = [Answer(403, body=body.encode())]
    store = _store(script.endpoint, session_token=token)
    with pytest.raises(StoreDenied) as caught:
        store.get("a")
    shown = f"{caught.value} {caught.value.as_dict()}"
    assert SECRET not in shown
    assert token not in shown
    assert "Signature=" not in shown


def test_what_is_set_is_sent_and_signed(script: Scripted) -> None:
    store = _store(
        script.endpoint,
        region="eu-central-1",
        session_token="the-token",
        storage_class="STANDARD_IA",
        server_side_encryption="aws:kms",
        kms_key="arn:aws:kms:x:1:key/k",
    )
    store.put("dir/a", [b"con", b"tent"], if_absent=True)
    (asked,) = script.asked
    assert (asked.method, asked.path, asked.body) == ("PUT", "/bucket/pg/dir/a", b"content")
    sent = {
        "if-none-match": "*",
        "x-amz-storage-class": "STANDARD_IA",
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "arn:aws:kms:x:1:key/k",
        "x-amz-security-token": "the-token",
    }
    assert {name: asked.headers.get(name) for name in sent} == sent
    signature = asked.headers["authorization"]
    assert "/eu-central-1/s3/aws4_request" in signature
    signed = signature.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert {*sent} <= {*signed}
    assert asked.headers["user-agent"].startswith("pgkeep/")
    # The store can tell whether the bytes arrived as they left.
    import hashlib

    assert asked.headers["x-amz-content-sha256"] == hashlib.sha256(b"content").hexdigest()


def test_a_token_of_the_environment_is_not_added_to_our_key(
    script: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another key")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    _store(script.endpoint).put("a", b"x")
    (asked,) = script.asked
    assert "x-amz-security-token" not in asked.headers
    assert f"Credential={KEY}/" in asked.headers["authorization"]


def test_a_swap_sends_the_etag_alone(script: Scripted) -> None:
    _store(script.endpoint).replace("a", b"x", etag='"abc"')
    assert script.asked[0].headers["if-match"] == '"abc"'


@pytest.mark.parametrize("name", ["moto", "versitygw", "minio"])
def test_near_ranges_are_one_request_and_an_early_end_is_no_panic(
    request: pytest.FixtureRequest, name: str
) -> None:
    running = object_service(request, name)
    store = ObjectStore(running.new_place(), running.options)
    content = bytes(n % 251 for n in range(3 << 20))
    store.put("a", content)
    wanted = [(0, 10), (500_000, 20), (2_900_000, 5), (len(content) - 3, 10), (len(content), 4)]
    got = store.get_ranges("a", wanted)
    assert got == [content[start : start + length] for start, length in wanted]
    store.put("a", content[:400_000])
    assert store.get_ranges("a", wanted) == [content[:10], b"", b"", b"", b""]


def test_ranges_cost_as_few_requests_as_they_have_gaps(script: Scripted) -> None:
    script.answers = [Answer(503)]
    with pytest.raises(StoreUnavailable):
        _store(script.endpoint).get_ranges("a", [(0, 10), (1000, 10), (5, 900), (900_000, 10)])
    assert [asked.headers["range"] for asked in script.asked] == ["bytes=0-900009"]


def _raise(problem: StoreError | None) -> None:
    if problem is not None:
        raise problem
