"""A repository is one thing, opened by the right key and by nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgkeep.errors import (
    ConfigError,
    DamagedObject,
    FormatTooNew,
    KeysChanged,
    NoRepository,
    ObjectExists,
    RepositoryError,
    UnknownSystem,
    WrongIdentity,
)
from pgkeep.repository import layout
from pgkeep.repository.host import HostKey, HostState, parse_host_key
from pgkeep.repository.identity import (
    Unlock,
    add_host,
    create_repository,
    make_key_set,
    make_keyring,
    open_repository,
    open_secret,
    read_identity,
)
from pgkeep.repository.record import build_record, parse_record, publish
from pgkeep.repository.system import check_system, read_systems, register_system
from pgkeep.seal import age
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from pgkeep.storage.memory import MemoryStore
from tests.repository.kit import AT, BY, make_repository


def test_an_empty_place_is_no_repository() -> None:
    with pytest.raises(NoRepository):
        read_identity(MemoryStore())


def test_the_identity_opens_it_and_another_one_does_not(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    assert make_keyring(repository.identity, unlock=Unlock([identity])).can_read_data
    stranger, _ = age.generate_identity()
    with pytest.raises(WrongIdentity):
        make_keyring(repository.identity, unlock=Unlock([stranger]))


def test_each_of_several_recipients_opens_it() -> None:
    people = [age.generate_identity() for _ in range(3)]
    keys = make_key_set([public for _, public in people], None)
    opened = {open_secret(keys.repository_secret, keys, Unlock([secret])) for secret, _ in people}
    assert len(opened) == 1


def test_a_passphrase_opens_it_and_another_one_does_not() -> None:
    keys = make_key_set([], "correct horse")
    assert open_secret(keys.repository_secret, keys, Unlock(passphrase="correct horse"))
    with pytest.raises(WrongIdentity):
        open_secret(keys.repository_secret, keys, Unlock(passphrase="wrong"))


def test_a_host_key_opens_the_metadata_and_not_the_data(tmp_path: Path) -> None:
    """Invariant 24."""
    repository, identity = make_repository(tmp_path, sealed=True)
    keys = repository.identity.keys
    assert keys is not None
    secret, public = age.generate_identity()
    metadata = open_secret(keys.metadata_secret, keys, Unlock([identity]))
    add_host(
        repository.store,
        repository.identity,
        metadata_secret=metadata,
        name="db",
        public=public,
        at=AT,
        by=BY,
    )
    state = HostState(tmp_path / "other")
    state.save_host_key(repository.identity.id, HostKey(repository.identity.fingerprint, secret))
    ring = open_repository(repository.store, state).keyring
    assert ring.can_read_metadata
    assert not ring.can_read_data
    assert ring.page_hash_key() == repository.keyring.page_hash_key()


def test_the_secret_keys_do_not_lie_in_the_repository(tmp_path: Path) -> None:
    repository, identity = make_repository(tmp_path, sealed=True)
    keys = repository.identity.keys
    assert keys is not None
    secrets = [
        identity,
        open_secret(keys.repository_secret, keys, Unlock([identity])),
        open_secret(keys.metadata_secret, keys, Unlock([identity])),
    ]
    for info in repository.store.list():
        stored = repository.store.get(info.key)
        assert not any(secret.encode() in stored for secret in secrets)


def test_a_repository_that_became_another_is_refused(tmp_path: Path) -> None:
    """Invariant 25."""
    repository, _ = make_repository(tmp_path, sealed=True)
    store = repository.store
    list(store.delete([info.key for info in store.list()]))
    create_repository(store, None, at=AT, by=BY)
    with pytest.raises(KeysChanged):
        open_repository(store, HostState(tmp_path / "state"))


def test_a_given_host_key_is_a_pin(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path)
    secret, _ = age.generate_identity()
    state = HostState(tmp_path / "fresh", given_key=HostKey("0" * 32, secret))
    with pytest.raises(KeysChanged):
        open_repository(repository.store, state)


def test_a_second_init_at_one_place_does_not_replace_the_first(tmp_path: Path) -> None:
    repository, _ = make_repository(tmp_path)
    with pytest.raises((ObjectExists, RepositoryError)):
        create_repository(repository.store, None, at=AT, by=BY)
    assert read_identity(repository.store).id == repository.identity.id


def test_a_host_key_survives_being_written_down(tmp_path: Path) -> None:
    secret, _ = age.generate_identity()
    key = HostKey("ab" * 16, secret)
    assert parse_host_key(key.text + "\n") == key
    path = HostState(tmp_path).save_host_key("id", key)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError) as caught:
        parse_host_key("PGKEEP-HOST-KEY-1:zz:" + secret)
    assert secret not in str(caught.value)


def test_a_second_system_under_a_known_name_is_refused_until_it_is_meant() -> None:
    """Invariant 26."""
    store = MemoryStore()

    def register(system: int, *, new: bool = False) -> bool:
        return register_system(
            store, "main", system, postgres_major=18, new_system=new, at=AT, by=BY
        )

    assert register(1)
    assert not register(1)
    with pytest.raises(UnknownSystem):
        register(2)
    with pytest.raises(UnknownSystem):
        check_system(store, "main", 2)
    assert register(2, new=True)
    assert [system.system_identifier for system in read_systems(store, "main")] == [1, 2]
    check_system(store, "main", 1)


@pytest.mark.parametrize("listing", range(3))
def test_a_listing_that_lacks_the_present_system_lets_no_other_in(listing: int) -> None:
    """Invariant 26, on a store whose listings are not all of the same moment."""
    store = FaultyStore(MemoryStore())

    def register(system: int, at: str = AT) -> bool:
        return register_system(
            store, "main", system, postgres_major=18, new_system=False, at=at, by=BY
        )

    assert register(1)
    store.fail(Fault(Failure.STALE, "list", skip=listing))
    with pytest.raises(UnknownSystem):
        register(2)
    store.heal()
    store.fail(Fault(Failure.STALE, "list", skip=listing))
    assert not register(1, "2026-11-21T12:00:00.000000Z")
    store.heal()
    assert [system.system_identifier for system in read_systems(store, "main")] == [1]


def test_a_secret_given_as_a_recipient_is_refused_without_being_repeated() -> None:
    secret, _ = age.generate_identity()
    with pytest.raises(ConfigError) as caught:
        age.parse_recipient(secret)
    assert secret not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a/b", "..", "-x", "pgkeep", "x" * 64, "ä"])
def test_a_name_that_cannot_be_a_key_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        layout.check_cluster_name(name)


def test_a_record_notices_any_change() -> None:
    data = build_record("pin", {"attempt": "x"}, at=AT, by=BY)
    assert parse_record(data, "key", kind="pin")["attempt"] == "x"
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 1
        with pytest.raises(DamagedObject):
            parse_record(bytes(broken), "key", kind="pin")
    with pytest.raises(DamagedObject):
        parse_record(data, "key", kind="void")


def test_a_record_of_a_newer_format_is_refused() -> None:
    data = build_record("pin", {"pgkeep": 2}, at=AT, by=BY)
    with pytest.raises(FormatTooNew):
        parse_record(data, "key", kind="pin")


def test_publishing_loses_no_number_to_a_race() -> None:
    """Who loses the race for a number sees what the winner wrote, and takes the next."""
    store = MemoryStore()
    seen: list[int] = []

    def build(number: int) -> bytes:
        if number == 1:
            store.put("x/00000001", b"the winner's", if_absent=True)
        seen.append(number)
        return b"ours"

    assert publish(store, "x/", build) == "x/00000002"
    assert seen == [1, 2]
    assert store.get("x/00000001") == b"the winner's"
