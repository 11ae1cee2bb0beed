"""What each role may do with a bucket, as a policy in the language that S3 and its kin share.

The *writer* is the database host: it creates, and neither deletes nor overwrites. The *pruner* is
the host that expires: it reads, deletes, and creates the records by which it says so before. The
*restorer* reads. None of them may delete a version for good, so that where the bucket keeps
versions, there is a way back from everything that any of them does.

In a policy ``*`` also stands for slashes. So what a role must not touch is denied, which wins over
everything that is allowed.
"""

from __future__ import annotations

from typing import Any, Literal

from pgkeep.storage.object_url import ObjectPlace

Role = Literal["writer", "pruner", "restorer"]
ROLES: tuple[Role, ...] = ("writer", "pruner", "restorer")
# In force if the request says If-None-Match: no put overwrites then.
_CREATE_ONLY = {"Null": {"s3:if-none-match": "false"}}
_LOOK = ["s3:ListBucket", "s3:ListBucketVersions", "s3:GetBucketVersioning"]
_LOCK_OF_BUCKET = "s3:GetBucketObjectLockConfiguration"
# Without s3:BypassGovernanceRetention a lock only gets longer.
_LOCK = ["s3:GetObjectRetention", "s3:PutObjectRetention"]
_READ = ["s3:GetObject", "s3:GetObjectVersion"]


def policy_for(
    role: Role,
    place: ObjectPlace,
    *,
    cluster: str,
    can_demand_create: bool,
    object_lock: bool = False,
) -> dict[str, Any]:
    """The policy for one cluster. ``can_demand_create``: the store knows s3:if-none-match.
    ``object_lock``: a writer may make locks longer."""
    keys = _Keys(place, cluster, can_demand_create=can_demand_create)
    statements = {"writer": _writer, "pruner": _pruner, "restorer": _restorer}[role](keys)
    if object_lock:
        statements.append(_allow([_LOCK_OF_BUCKET], [keys.bucket]))
        may = _LOCK if role == "writer" else _LOCK[:1]
        statements.append(_allow(may, [keys.own(), keys.shared()]))
    return {"Version": "2012-10-17", "Statement": statements}


def losses_of(role: Role, *, can_demand_create: bool) -> tuple[str, ...]:
    """What the policy cannot forbid, a sentence each."""
    if role == "restorer" or can_demand_create:
        return ()
    return (
        f"This policy cannot keep the {role} from overwriting objects, since the store knows no "
        "s3:if-none-match. Turn versioning on for the bucket: what was overwritten then comes back "
        "by restore --as-of, and no role here may delete a version.",
    )


class _Keys:
    """Resources of one cluster, and statements about them."""

    def __init__(self, place: ObjectPlace, cluster: str, *, can_demand_create: bool) -> None:
        self.bucket = f"arn:aws:s3:::{place.bucket}"
        self._root = f"{self.bucket}/{place.prefix}".rstrip("/")
        self._cluster, self._can_demand_create = cluster, can_demand_create

    def own(self, key: str = "*") -> str:
        """A key of the cluster."""
        return f"{self._root}/{self._cluster}/{key}"

    def shared(self, key: str = "*") -> str:
        """A key of the repository."""
        return f"{self._root}/pgkeep/{key}"

    def looking(self) -> list[dict[str, Any]]:
        """To list the bucket, and to read. Without a condition on the prefix, since S3 would say
        "denied" then of an object that is not there."""
        return [
            _allow(_LOOK, [self.bucket]),
            _allow(_READ, [self.shared(), self.own()]),
        ]

    def creating(self, *keys: str) -> dict[str, Any]:
        """To create, and where the store can demand it, nothing but that."""
        statement = _allow(["s3:PutObject"], list(keys))
        return statement | ({"Condition": _CREATE_ONLY} if self._can_demand_create else {})


def _writer(keys: _Keys) -> list[dict[str, Any]]:
    return [
        *keys.looking(),
        keys.creating(keys.own(), keys.shared("probe/*")),
        _allow(["s3:PutObject"], [keys.own("*/lease")]),
        _deny(["s3:PutObject"], [keys.own("systems/*"), keys.own("*/admin/*")]),
        _deny(["s3:DeleteObject", "s3:DeleteObjectVersion"], [keys.own(), keys.shared()]),
    ]


def _pruner(keys: _Keys) -> list[dict[str, Any]]:
    return [
        *keys.looking(),
        keys.creating(keys.own("*/admin/*"), keys.own("*/pins/*"), keys.shared("probe/*")),
        _allow(["s3:DeleteObject"], [keys.own(), keys.shared("probe/*")]),
        _deny(["s3:DeleteObject"], [keys.own("systems/*")]),
        _deny(["s3:DeleteObjectVersion"], [keys.own(), keys.shared()]),
    ]


def _restorer(keys: _Keys) -> list[dict[str, Any]]:
    return keys.looking()


def _allow(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources}


def _deny(actions: list[str], resources: list[str]) -> dict[str, Any]:
    return {"Effect": "Deny", "Action": actions, "Resource": resources}
