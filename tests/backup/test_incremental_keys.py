"""Which keys increments need: the metadata key, and nothing that opens a page (invariant 24)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pgkeep.repository.host import HostKey
from pgkeep.repository.identity import (
    Repository,
    Unlock,
    add_host,
    make_keyring,
    read_identity,
    read_keys,
)
from pgkeep.repository.keys import open_secret
from pgkeep.seal import age
from tests.backup.chain import RELATION, Chain, change, restored, stored_by_last
from tests.backup.scratch import RUN
from tests.repository.kit import AT, BY


def test_a_host_key_is_enough_to_compare_even_when_the_cache_is_lost(tmp_path: Path) -> None:
    chain = Chain(tmp_path, sealed=True, checksums=False)
    path = chain.write(RELATION, os.urandom(2 * RUN))
    store = chain.repository.store
    found = read_identity(store)
    keys = read_keys(store)
    secret, public = age.generate_identity()
    add_host(
        store,
        found,
        metadata_secret=open_secret(keys.metadata_secret, keys, Unlock([chain.identity])),
        name="db",
        public=public,
        at=AT,
        by=BY,
    )
    found = read_identity(store)
    ring = make_keyring(found, host_key=HostKey(found.fingerprint, secret))
    chain.repository = Repository(store, found, ring)
    assert not ring.can_read_data
    chain.run()
    shutil.rmtree(chain.cache)
    change(path, [7])
    second = chain.run()
    assert second.head["kind"] == "incremental"
    assert stored_by_last(chain) == 1
    assert restored(second) == chain.content()


def test_without_the_metadata_key_every_backup_is_a_full_one(tmp_path: Path) -> None:
    chain = Chain(tmp_path, sealed=True, checksums=False)
    chain.write(RELATION, os.urandom(2 * RUN))
    store = chain.repository.store
    found = read_identity(store)
    whole = chain.repository
    chain.repository = Repository(store, found, make_keyring(found))
    assert chain.run().head["kind"] == "full"
    assert chain.run().head["kind"] == "full"
    assert stored_by_last(chain) == 256
    # Its hashes were made with a key that nobody keeps, so it cannot be compared with either.
    chain.repository = whole
    assert chain.run().head["kind"] == "full"
