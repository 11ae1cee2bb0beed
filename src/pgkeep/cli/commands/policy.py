"""``pgkeep policy``: what a role may do with the bucket, for whoever rules over it."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from pgkeep.cli.context import Context
from pgkeep.errors import ConfigError
from pgkeep.repository.layout import check_cluster_name
from pgkeep.setup.policy import ROLES, losses_of, policy_for
from pgkeep.storage.object_url import parse_object_url

EXAMPLES = (
    ("pgkeep policy writer", "for the database host: it creates, and deletes nothing"),
    ("pgkeep policy pruner", "for the host that expires"),
    ("pgkeep policy restorer", "for a host that only reads"),
)
PROVIDERS = ("aws", "minio")


def add_arguments(parser: ArgumentParser) -> None:
    """For whom, and in whose store."""
    parser.add_argument("role", choices=ROLES, metavar="ROLE", help="writer, pruner or restorer")
    parser.add_argument(
        "--provider",
        choices=PROVIDERS,
        metavar="NAME",
        help="aws, whose policies can demand that nothing is overwritten, or minio, for it and "
        "others (default: aws unless an endpoint is set)",
    )

    parser.add_argument(
        "--object-lock",
        action="store_true",
        help="the bucket has Object Lock, and the writer makes locks longer (object_lock_days)",
    )


def run(context: Context, args: Namespace) -> int:
    """Print the policy; what it cannot forbid is a warning. Nothing is asked of the store."""
    settings = context.settings
    url = settings.repo or ""
    if not url.lower().startswith("s3:"):
        raise ConfigError(
            "A policy is for a bucket at s3://, and PGKEEP_REPO names none.",
            remedy="Set PGKEEP_REPO, or give --repo s3://bucket/prefix. For other stores see "
            "docs/guide/protect.",
        )
    provider = args.provider or ("minio" if settings.endpoint else "aws")
    can_demand = provider == "aws"
    policy = policy_for(
        args.role,
        parse_object_url(url),
        cluster=check_cluster_name(settings.cluster),
        can_demand_create=can_demand,
        object_lock=args.object_lock,
    )
    context.output.result(policy, lambda: context.output.say(json.dumps(policy, indent=2)))
    for loss in losses_of(args.role, can_demand_create=can_demand):
        context.output.warn(loss)
    return 0
