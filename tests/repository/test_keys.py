"""A key set opens along one chain, and nobody can slip a key or a recipient of his own into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pgkeep.errors import DamagedObject, KeysChanged, PgkeepError, RepositoryError, WrongIdentity
from pgkeep.repository import layout
from pgkeep.repository.host import HostKey, HostState
from pgkeep.repository.identity import (
    KeySet,
    Repository,
    Unlock,
    add_host,
    create_repository,
    make_key_set,
    make_keyring,
    open_repository,
    open_secret,
    read_identity,
    read_keys,
    read_repository_id,
)
from pgkeep.repository.pack import PackInfo, PackWriter, read_index
from pgkeep.repository.record import build_record, parse_record, publish
from pgkeep.seal import age
from pgkeep.storage.interface import Buffer
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import AT, BY, LAYOUT, make_repository


def keys_of(repository: Repository) -> KeySet:
    keys = repository.identity.keys
    assert keys is not None
    return keys


def write_keys(repository: Repository, keys: KeySet, **changes: Any) -> None:
    """Publish a key record, as anybody could who may write to the store."""
    members = keys.members(repository.identity.id) | changes
    publish(repository.store, layout.KEYS, lambda _: build_record("keys", members, at=AT, by=BY))


def rotate(repository: Repository, identity: str) -> KeySet:
    """New pairs to the same recipients, the old ones chained behind (format, section 2.2)."""
    old = keys_of(repository)
    new = make_key_set(old.recipients, None)
    row = {
        "repository_public": old.repository_public,
        "metadata_public": old.metadata_public,
    }
    for name, public in (
        ("repository_secret", new.repository_public),
        ("metadata_secret", new.metadata_public),
    ):
        secret = open_secret(getattr(old, name), old, Unlock([identity]))
        row[name] = age.seal_to(secret.encode(), [public], armored=True).decode()
    return new._replace(previous=(row, *old.previous))


def make_pack(repository: Repository) -> tuple[PackInfo, bytes]:
    ring = repository.keyring
    writer = PackWriter(ring, "ab" * 16, 1, page_size=8192, hash_key=ring.page_hash_key())
    writer.add_data(b"x" * 8192, bytes(8))
    info, view = writer.finish()
    return info, bytes(view)


def test_after_a_rotation_old_and_new_data_open(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    old_info, old_pack = make_pack(repository)
    write_keys(repository, rotate(repository, identity))
    with pytest.raises(KeysChanged):
        open_repository(repository.store, HostState(tmp_path / "state"), unlock=Unlock([identity]))
    again = open_repository(
        repository.store, HostState(tmp_path / "fresh"), unlock=Unlock([identity])
    )
    new_info, new_pack = make_pack(again)
    for info, pack in ((old_info, old_pack), (new_info, new_pack)):
        index = read_index(pack, again.keyring, info, LAYOUT)
        key = again.keyring.page_hash_key_for(index.hash_kind, index.hash_shown)
        assert key is not None
        opener = info.opener(again.keyring, LAYOUT)
        assert opener.open_at(pack, index.offsets[0], number=0) == b"x" * 8192
    assert again.keyring.page_hash_key() != repository.keyring.page_hash_key()


def test_after_two_rotations_a_host_still_reads_the_first_metadata(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    info, pack = make_pack(repository)
    for _ in range(2):
        before = Repository(repository.store, read_identity(repository.store), repository.keyring)
        keys = keys_of(before)
        new = rotate(before, identity)
        # The first of the previous pairs is sealed to the pair before: seal it anew.
        rows = [
            {**row, **resealed(row, keys, new, identity)} if row in keys.previous else row
            for row in new.previous
        ]
        write_keys(repository, new._replace(previous=tuple(rows)))
    keys = read_keys(repository.store)
    secret, public = age.generate_identity()
    add_host(
        repository.store,
        read_identity(repository.store),
        metadata_secret=open_secret(keys.metadata_secret, keys, Unlock([identity])),
        name="db",
        public=public,
        at=AT,
        by=BY,
    )
    found = read_identity(repository.store)
    ring = make_keyring(found, host_key=HostKey(found.fingerprint, secret))
    assert not ring.can_read_data
    read_index(pack, ring, info, LAYOUT)


def resealed(row: dict[str, str], old: KeySet, new: KeySet, identity: str) -> dict[str, str]:
    found = {}
    for name, public in (
        ("repository_secret", new.repository_public),
        ("metadata_secret", new.metadata_public),
    ):
        secret = open_secret(row[name], old, Unlock([identity]))
        found[name] = age.seal_to(secret.encode(), [public], armored=True).decode()
    return found


def test_a_recipient_that_was_slipped_in_is_noticed(tmp_path: Path) -> None:
    """The fingerprint says nothing of recipients; dumps are sealed to them."""
    repository, identity = make_repository(tmp_path, sealed=True)
    _, stranger = age.generate_identity()
    keys = keys_of(repository)
    write_keys(repository, keys, recipients=[*keys.recipients, stranger])
    with pytest.raises(KeysChanged, match="recipients"):
        open_repository(repository.store, HostState(tmp_path / "state"), unlock=Unlock([identity]))


@pytest.mark.parametrize("name", ["repository_secret", "metadata_secret"])
def test_a_secret_that_is_not_that_of_its_public_key_is_noticed(tmp_path: Path, name: str) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    keys = keys_of(repository)
    other, _ = age.generate_identity()
    to = keys.recipients if name == "repository_secret" else [keys.repository_public]
    sealed = age.seal_to(other.encode(), to, armored=True).decode()
    write_keys(repository, keys, **{name: sealed})
    with pytest.raises(KeysChanged):
        open_repository(repository.store, HostState(tmp_path / "state"), unlock=Unlock([identity]))


def test_a_key_set_of_an_init_that_lost_the_race_changes_nothing(tmp_path: Path) -> None:
    """An init that saw no repository may publish its keys after another one has finished."""

    class Slow(MemoryStore):
        """Another process makes the repository just before our record of it is put."""

        other: Any = None

        def put(self, key: str, data: Buffer | Any, *, if_absent: bool = False) -> str:
            if key == layout.IDENTITY and self.other is None:
                self.other = True
                _, public = age.generate_identity()
                self.other = create_repository(self, make_key_set([public], None), at=AT, by=BY)
                late = make_key_set([public], None).members("ff" * 16)
                publish(self, layout.KEYS, lambda _: build_record("keys", late, at=AT, by=BY))
            return super().put(key, data, if_absent=if_absent)

    store = Slow()
    _, public = age.generate_identity()
    with pytest.raises(RepositoryError):
        create_repository(store, make_key_set([public], None), at=AT, by=BY)
    assert read_identity(store) == store.other


def test_a_passphrase_is_asked_of_scrypt_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time costs a second, and wal-fetch opens the repository for each segment."""
    store = MemoryStore()
    create_repository(store, make_key_set([], "correct horse"), at=AT, by=BY)
    asked: list[str] = []
    real = age.open_with_passphrase

    def counted(sealed: bytes, passphrase: str) -> bytes:
        asked.append(passphrase)
        return real(sealed, passphrase)

    monkeypatch.setattr(age, "open_with_passphrase", counted)
    unlock = Unlock(passphrase="correct horse")
    ring = open_repository(store, HostState(tmp_path), unlock=unlock).keyring
    assert ring.can_read_data
    assert ring.can_read_metadata
    assert len(asked) == 1


def test_adding_a_host_carries_on_what_a_newer_version_wrote(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    keys = keys_of(repository)
    write_keys(repository, keys, unheard_of={"x": 1})
    _, public = age.generate_identity()
    add_host(
        repository.store,
        repository.identity,
        metadata_secret=open_secret(keys.metadata_secret, keys, Unlock([identity])),
        name="db",
        public=public,
        at=AT,
        by=BY,
    )
    key = f"{layout.KEYS}00000003"
    members = parse_record(repository.store.get(key), key, kind="keys")
    assert members["unheard_of"] == {"x": 1}
    assert [host["name"] for host in members["hosts"]] == ["db"]


def test_a_host_is_not_added_to_keys_that_were_rotated_meanwhile(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    keys = keys_of(repository)
    secret = open_secret(keys.metadata_secret, keys, Unlock([identity]))
    write_keys(repository, rotate(repository, identity))
    _, public = age.generate_identity()
    with pytest.raises(KeysChanged):
        add_host(
            repository.store,
            repository.identity,
            metadata_secret=secret,
            name="db",
            public=public,
            at=AT,
            by=BY,
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"recipients": "age1"},
        {"recipients": [1]},
        {"passphrase": "yes"},
        {"repository_secret": None},
        {"hosts": {}},
        {"hosts": [1]},
        {"hosts": [{"name": "x"}]},
        {"previous": [{"repository_public": 1}]},
        {"proof": None},
    ],
)
def test_a_malformed_key_record_is_damage(tmp_path: Path, changes: dict[str, Any]) -> None:
    repository, _ = make_repository(tmp_path, sealed=True)
    write_keys(repository, keys_of(repository), **changes)
    with pytest.raises(DamagedObject):
        read_identity(repository.store)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../../../tmp/x"},
        {"id": 7},
        {"id": "AB" * 16},
        {"sealing": "rot13"},
        {"sealing": None},
        {"hash_salt": "zz"},
    ],
)
def test_a_malformed_identity_is_damage(changes: dict[str, Any]) -> None:
    """The id becomes the name of a local file."""
    members = {"id": "ab" * 16, "sealing": "none", "hash_salt": "cd" * 32}
    store = MemoryStore()
    store.put(layout.IDENTITY, build_record("repository", members | changes, at=AT, by=BY))
    with pytest.raises(DamagedObject):
        read_identity(store)
    if "id" in changes:
        with pytest.raises(DamagedObject):
            read_repository_id(store)


def test_secrets_that_are_garbage_are_an_error_of_ours(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    keys = keys_of(repository)
    for changes in ({"repository_secret": "garbage"}, {"metadata_secret": "garbage"}):
        write_keys(repository, keys, **changes)
        with pytest.raises(PgkeepError):
            open_repository(
                repository.store, HostState(tmp_path / "state"), unlock=Unlock([identity])
            )


def test_a_sealed_repository_whose_keys_are_gone_says_so(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    repository.store.delete([f"{layout.KEYS}00000001"])
    with pytest.raises(RepositoryError, match="keys are missing"):
        read_identity(repository.store)
    write_keys(repository, keys_of(repository))
    stranger, _ = age.generate_identity()
    with pytest.raises(WrongIdentity):
        make_keyring(read_identity(repository.store), unlock=Unlock([stranger]))
    assert make_keyring(read_identity(repository.store), unlock=Unlock([identity])).can_read_data
