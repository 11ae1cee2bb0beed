"""``init --create-bucket``: the bucket is there afterwards, or it is said who makes it."""

from __future__ import annotations

import pytest

from pgkeep.errors import ConfigError, StoreDenied, StoreUnavailable
from pgkeep.storage.create_bucket import create_bucket
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions
from tests.object_stores import object_service
from tests.ports import free_port


@pytest.mark.parametrize("name", ["versitygw", "minio", "azurite"])
def test_it_is_made_once(request: pytest.FixtureRequest, name: str) -> None:
    running = object_service(request, name)
    place = running.new_place()
    place = place._replace(bucket=f"{place.bucket}-2")
    assert create_bucket(place, running.options) is True
    ObjectStore(place, running.options).put("a", b"x")
    assert create_bucket(place, running.options) is False


def test_wrong_keys_may_not(request: pytest.FixtureRequest) -> None:
    running = object_service(request, "minio")
    wrong = running.options._replace(secret_access_key="wrong")
    with pytest.raises(StoreDenied) as caught:
        create_bucket(ObjectPlace("s3", "some-bucket", ""), wrong)
    assert "Signature" not in str(caught.value.what)


def test_a_store_that_is_not_there_is_no_secret_told() -> None:
    options = StoreOptions(
        endpoint=f"http://127.0.0.1:{free_port()}",
        access_key_id="id",
        secret_access_key="hunter2",
    )
    with pytest.raises(StoreUnavailable) as caught:
        create_bucket(ObjectPlace("s3", "some-bucket", ""), options)
    assert "X-Amz" not in str(caught.value)


def test_where_pgkeep_cannot_the_tool_is_named() -> None:
    with pytest.raises(ConfigError, match="gcloud storage buckets create gs://b"):
        create_bucket(ObjectPlace("gs", "b-b", ""), StoreOptions())
    with pytest.raises(ConfigError, match="az storage container create"):
        create_bucket(ObjectPlace("az", "c-c", ""), StoreOptions(account="acme"))
