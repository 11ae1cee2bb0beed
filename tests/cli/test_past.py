"""What ``--as-of`` and ``policy`` say before anything is asked of a store."""

from __future__ import annotations

import json

from pgkeep.errors import ConfigError
from tests.cli.kit import Pgkeep

BUCKET = "s3://acme-backups/pg"
REFUSED = ConfigError.exit_code


def test_as_of_is_refused_where_no_versions_are_asked_for() -> None:
    done = Pgkeep()("list", "--as-of", "2026-11-20T14:03:07+01:00", code=REFUSED)
    assert "cannot be read as of a moment" in done.stderr


def test_as_of_wants_a_time_and_a_zone() -> None:
    for text in ("2026-11-20", "2026-11-20T14:03:07", "yesterday"):
        done = Pgkeep()("list", "--as-of", text, code=REFUSED, PGKEEP_REPO=BUCKET)
        assert "it must be a date, a time and a zone" in done.stderr


def test_policy_is_printed_for_the_store() -> None:
    done = Pgkeep()("policy", "writer", PGKEEP_REPO=BUCKET)
    assert "s3:if-none-match" in done.stdout
    assert done.stderr == ""
    assert "arn:aws:s3:::acme-backups/pg/main/*" in json.dumps(json.loads(done.stdout))
    elsewhere = Pgkeep()(
        "policy", "writer", PGKEEP_ENDPOINT="http://127.0.0.1:9", PGKEEP_REPO=BUCKET
    )
    assert "if-none-match" not in elsewhere.stdout
    assert "cannot keep the writer from overwriting" in elsewhere.stderr


def test_policy_is_refused_for_a_directory() -> None:
    assert "s3://" in Pgkeep()("policy", "writer", code=REFUSED).stderr
