"""What a backup asks its store beside storing packs and reading maps is the same for any size: it
is waited for, and where requests are paid for, paid."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pgkeep.repository.start import ask_for_start
from pgkeep.storage.checked import CheckedStore
from pgkeep.storage.faulty import FaultyStore
from tests.backup.site import Site

pytestmark = pytest.mark.majors(18)


def test_an_increment_takes_thirty_six_requests_beside_its_packs_and_wal(
    site: Site, tmp_path: Path
) -> None:
    first = site.backup(cache=tmp_path)
    while f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}" <= first.head.backup:
        time.sleep(0.1)  # a name that is taken costs two requests more
    counted = FaultyStore(site.store)
    store = ask_for_start(CheckedStore(counted, unless="/packs/"), "main")
    report = site.backup(repository=site.repository(store=store), cache=tmp_path)
    assert report.head.kind == "incremental"
    listed = counted.count("list", "*/packs/*")
    others = (
        sum(counted.calls.values()) - counted.count(key="*/packs/*") - counted.count(key="*/wal/*")
    )
    asked = "\n".join(f"{count} {method} {key}" for (method, key), count in counted.calls.items())
    assert others + listed <= 36, asked
    assert counted.count("head", "*/wal/*") + counted.count("list", "*/wal/*") <= 5, asked
