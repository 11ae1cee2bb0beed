"""A bucket as its owner sees it: what a test sets up, and what an attacker with all keys does."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import botocore.session
from botocore.config import Config

from pgkeep.setup.policy import Role, policy_for
from pgkeep.storage.object_url import ObjectPlace
from pgkeep.storage.options import StoreOptions
from tests.object_stores import Service


def client(service: Service, name: str = "s3", **keys: str) -> Any:
    """botocore's client for the running store; ``keys`` replace the owner's."""
    given = keys or {
        "aws_access_key_id": service.options.access_key_id or "",
        "aws_secret_access_key": service.options.secret_access_key or "",
    }
    return botocore.session.Session().create_client(
        name,
        region_name="us-east-1",
        endpoint_url=service.options.endpoint,
        config=Config(s3={"addressing_style": "path"}),
        **given,
    )


def versioned_place(service: Service) -> ObjectPlace:
    """A prefix in a new bucket that keeps versions."""
    place = service.new_place()
    s3 = client(service)
    s3.put_bucket_versioning(Bucket=place.bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.close()
    return place


def keys_in(s3: Any, bucket: str) -> list[str]:
    """All keys that a plain listing shows."""
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [one["Key"] for page in pages for one in page.get("Contents", ())]


def store_time(s3: Any, bucket: str) -> datetime:
    """The store's clock, by a scratch object elsewhere in the bucket."""
    s3.put_object(Bucket=bucket, Key="clock", Body=b"")
    found: datetime = s3.head_object(Bucket=bucket, Key="clock")["LastModified"]
    return found


def role_options(service: Service, role: Role, place: ObjectPlace) -> StoreOptions:
    """The keys of a user of the store who has the role's policy, for an hour."""
    sts = client(service, "sts")
    policy = policy_for(role, place, cluster="main", can_demand_create=False)
    found = sts.assume_role(
        RoleArn="arn:aws:iam::123456789012:role/any",
        RoleSessionName=role,
        Policy=json.dumps(policy, separators=(",", ":")),
        DurationSeconds=3600,
    )["Credentials"]
    sts.close()
    return service.options._replace(
        access_key_id=found["AccessKeyId"],
        secret_access_key=found["SecretAccessKey"],
        session_token=found["SessionToken"],
    )
