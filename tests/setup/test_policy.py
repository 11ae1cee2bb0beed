"""Policies for the roles, given to users of a store that enforces them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgkeep.errors import StoreDenied
from pgkeep.setup.policy import ROLES, Role, losses_of, policy_for
from pgkeep.setup.probe import probe_store
from pgkeep.storage.object_store import ObjectStore
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.past import PastStore
from tests.object_stores import Service, object_service
from tests.storage.aws import client, role_options, versioned_place

PACK, ADMIN = "main/123/packs/ab/00000001", "main/123/admin/trash/00000001"
LEASE, SYSTEM, KEYS = "main/123/lease", "main/systems/00000001", "pgkeep/keys/00000001"
PIN, OTHER = "main/123/pins/ab/00000001", "orders/123/packs/ab/00000001"


@pytest.fixture
def service(request: pytest.FixtureRequest) -> Service:
    return object_service(request, "minio")


@pytest.fixture
def place(service: Service) -> ObjectPlace:
    place = versioned_place(service)
    owner = ObjectStore(place, service.options)
    for key in (PACK, ADMIN, LEASE, SYSTEM, KEYS, OTHER):
        owner.put(key, b"the owner's")
    return place


def _as(role: Role, service: Service, place: ObjectPlace) -> ObjectStore:
    return ObjectStore(place, role_options(service, role, place))


def _denies_put(store: ObjectStore, key: str) -> bool:
    try:
        store.put(key, b"mine")
    except StoreDenied:
        return True
    return False


def _is_not_deleted(store: ObjectStore, key: str) -> bool:
    return isinstance(store.delete([key])[key], StoreDenied) and store.exists(key)


def test_the_writer_creates_and_deletes_nothing(service: Service, place: ObjectPlace) -> None:
    writer = _as("writer", service, place)
    writer.put("main/123/packs/ab/00000002", b"a pack", if_absent=True)
    writer.put(PIN, b"a pin", if_absent=True)
    assert writer.get(KEYS) == b"the owner's"
    assert not writer.exists("main/123/manifests/20261120T020004Z")
    writer.replace(LEASE, b"mine", etag=writer.head(LEASE).etag)
    for key in (PACK, LEASE, SYSTEM, KEYS, ADMIN, PIN):
        assert _is_not_deleted(writer, key), key
    for key in ("main/123/admin/trash/00000002", SYSTEM, KEYS, "pgkeep/keys/00000002", OTHER):
        assert _denies_put(writer, key), key


def test_the_pruner_deletes_and_writes_its_records_only(
    service: Service, place: ObjectPlace
) -> None:
    pruner = _as("pruner", service, place)
    pruner.put("main/123/admin/trash/00000002", b"a mark", if_absent=True)
    pruner.put(PIN, b"a pin", if_absent=True)
    assert pruner.delete([PACK, PIN]) == {PACK: None, PIN: None}
    assert not pruner.exists(PACK)
    for key in (SYSTEM, KEYS):
        assert _is_not_deleted(pruner, key), key
    for key in (PACK, "main/123/manifests/20261120T020004Z", LEASE, KEYS, OTHER):
        assert _denies_put(pruner, key), key


def test_the_restorer_only_reads(service: Service, place: ObjectPlace) -> None:
    restorer = _as("restorer", service, place)
    assert restorer.get(PACK) == b"the owner's"
    assert [info.key for info in restorer.list("main/123/packs/")] == [PACK]
    for key in (PIN, PACK, ADMIN):
        assert _denies_put(restorer, key), key
    assert _is_not_deleted(restorer, PACK)
    with pytest.raises(StoreDenied):
        restorer.get(OTHER)
    moment = datetime.now(UTC) + timedelta(seconds=2)
    then = PastStore(place, role_options(service, "restorer", place), moment)
    assert then.get(PACK) == b"the owner's"


@pytest.mark.parametrize("role", ROLES)
def test_no_role_deletes_a_version_for_good(
    service: Service, place: ObjectPlace, role: Role
) -> None:
    options = role_options(service, role, place)
    s3 = client(
        service,
        aws_access_key_id=options.access_key_id or "",
        aws_secret_access_key=options.secret_access_key or "",
        aws_session_token=options.session_token or "",
    )
    asked: dict[str, Any] = {"Bucket": place.bucket}
    key = f"{place.prefix}/{PACK}"
    version = s3.list_object_versions(**asked, Prefix=key)["Versions"][0]["VersionId"]
    off = {"Status": "Suspended"}
    with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
        s3.delete_object(**asked, Key=key, VersionId=version)
    with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
        s3.put_bucket_versioning(**asked, VersioningConfiguration=off)
    s3.close()


def test_init_says_honestly_what_a_writer_may(service: Service, place: ObjectPlace) -> None:
    """MinIO knows no condition that demands creation: there, and only there, it overwrites."""
    probe = probe_store(_as("writer", service, place))
    assert (probe.conditional_create, probe.list_after_write) == (True, True)
    assert (probe.can_overwrite, probe.can_delete) == (True, False)
    assert probe.can_destroy
    assert losses_of("writer", can_demand_create=False)
    assert not losses_of("writer", can_demand_create=True)


def test_aws_demands_that_the_writer_creates() -> None:
    place = ObjectPlace("s3", "bucket", "")
    policy = policy_for("writer", place, cluster="main", can_demand_create=True)
    puts = [one for one in policy["Statement"] if one["Action"] == ["s3:PutObject"]]
    without = [one["Resource"] for one in puts if "Condition" not in one]
    assert without == [
        ["arn:aws:s3:::bucket/main/*/lease"],
        ["arn:aws:s3:::bucket/main/systems/*", "arn:aws:s3:::bucket/main/*/admin/*"],
    ]
    assert json.dumps(policy).count("if-none-match") == 1
