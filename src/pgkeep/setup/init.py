"""``init``: make a repository or join one, register the cluster, give this host its key, prove it.

Everything is done in an order in which a crash leaves something harmless, and a second run finishes
what the first began. The cluster is registered last, since that is what lets WAL in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pgkeep.errors import (
    ConfigError,
    KeysChanged,
    NoRepository,
    RepositoryError,
    SealError,
    UsageError,
)
from pgkeep.repository.host import HostKey, HostState
from pgkeep.repository.identity import (
    KeySet,
    Repository,
    RepositoryIdentity,
    Unlock,
    add_host,
    create_repository,
    make_key_set,
    open_repository,
    open_secret,
    read_identity,
)
from pgkeep.repository.layout import check_cluster_name
from pgkeep.repository.system import read_systems, register_system, unknown_system
from pgkeep.seal import age
from pgkeep.setup.papers import put_papers
from pgkeep.setup.probe import StoreProbe, probe_store
from pgkeep.storage.interface import Store


@dataclass(frozen=True)
class Sealing:
    """How a new repository is to be sealed; at most one of the three is given."""

    recipients: tuple[str, ...] = ()
    passphrase: str | None = field(default=None, repr=False)
    none: bool = False

    @property
    def chosen(self) -> bool:
        return bool(self.recipients) or self.passphrase is not None or self.none


@dataclass(frozen=True)
class SystemSeen:
    """The cluster as the server, or pg_control in its data directory, tells it."""

    system_identifier: int
    postgres_major: int
    told_by: str


@dataclass(frozen=True)
class InitRequest:
    """What ``init`` is asked for. ``at`` is UTC text, ``by`` the writer of records."""

    cluster: str
    sealing: Sealing
    unlock: Unlock
    system: SystemSeen
    host_name: str
    at: str
    by: Mapping[str, Any]
    new_system: bool = False
    accept_fingerprint: str | None = None


@dataclass(frozen=True)
class InitReport:
    """What is now the case. ``proved``: the identity or passphrase given did open a sealed key.

    ``host_key`` is ``made``, ``present``, ``missing`` or ``unneeded`` (no encryption);
    ``host_key_path`` is where a key lies that was just made.
    """

    url: str
    cluster: str
    created: bool
    repository_id: str
    fingerprint: str
    sealed: bool
    recipients: tuple[str, ...]
    passphrase: bool
    system_identifier: int
    postgres_major: int
    registered: bool
    host_key: str
    host_key_path: Path | None
    proved: bool
    probe: StoreProbe

    @property
    def can_list(self) -> bool:
        """Whether this host can read manifests without the identity."""
        return self.host_key != "missing"


def init_repository(store: Store, host: HostState, request: InitRequest) -> InitReport:
    """Make or join the repository at ``store``; safe to repeat.

    Raises ``UsageError`` (no choice of sealing for a new one), ``RepositoryError`` (another choice
    than the existing one's), ``UnknownSystem``, ``KeysChanged``, ``WrongIdentity``, ``StoreError``.
    """
    check_cluster_name(request.cluster)
    identity, created, fresh_key = _existing(store), False, None
    if identity is None:
        identity, fresh_key = _create(store, host, request)
        created = True
    else:
        _check_free(store, request)
        _check_same_sealing(identity, request.sealing)
        if request.accept_fingerprint is not None:
            _accept(store, host, identity, request.accept_fingerprint)
    unlock = _unlock(request)
    repository = open_repository(store, host, unlock=unlock)
    put_papers(store, identity)
    host_key, path = _host_key(repository, host, request, unlock, fresh=fresh_key)
    proved = prove(repository)
    probe = probe_store(store)
    registered = register_system(
        store,
        request.cluster,
        request.system.system_identifier,
        postgres_major=request.system.postgres_major,
        new_system=request.new_system,
        at=request.at,
        by=dict(request.by),
    )
    keys = identity.keys
    return InitReport(
        store.url,
        request.cluster,
        created,
        identity.id,
        identity.fingerprint,
        keys is not None,
        keys.recipients if keys else (),
        bool(keys and keys.passphrase),
        request.system.system_identifier,
        request.system.postgres_major,
        registered,
        host_key,
        path,
        proved,
        probe,
    )


def no_sealing_chosen(url: str, why: str | None = None) -> UsageError:
    """The refusal to make a repository before it is said who may read it."""
    return UsageError(
        f"There is no repository at {url} yet, and nothing says how to seal a new one.",
        why=why or "Whoever can read the repository can read the database, unless it is sealed.",
        remedy="Give one of: --recipient age1… (a public key, made by age-keygen), "
        "--passphrase-file FILE, or --no-encryption.",
    )


def prove(repository: Repository) -> bool:
    """Whether the secrets at hand open what is sealed to the public keys; False with none at hand.

    Raises ``SealError`` when a secret is there and does not fit its public half.
    """
    keyring = repository.keyring
    if not keyring.sealed or not keyring.can_read_data:
        return False
    keys = keyring.new_keys(data=True, metadata=True)
    opened = (
        keyring.open_data_key(keys.sealed_data),
        keyring.open_metadata_key(keys.sealed_metadata),
    )
    if opened != (keys.data, keys.metadata):
        raise SealError(
            f"The secret keys in {repository.store.url} do not belong to its public keys.",
            remedy="Do not use this repository; make another one with pgkeep init.",
        )
    return True


def _existing(store: Store) -> RepositoryIdentity | None:
    try:
        return read_identity(store)
    except NoRepository:
        return None


def _create(
    store: Store, host: HostState, request: InitRequest
) -> tuple[RepositoryIdentity, tuple[str, str] | None]:
    """The new repository, and this host's new identity (secret, public) if it is sealed."""
    sealing = request.sealing
    if not sealing.chosen:
        raise no_sealing_chosen(store.url)
    keys: KeySet | None = None
    fresh: tuple[str, str] | None = None
    if not sealing.none:
        for text in sealing.recipients:
            age.parse_recipient(text)
        fresh = age.generate_identity()
        hosts = [(request.host_name, fresh[1])]
        keys = make_key_set(sealing.recipients, sealing.passphrase, hosts=hosts)
    identity = create_repository(store, keys, at=request.at, by=dict(request.by))
    # Whatever was pinned for this URL before is gone: this one is our own.
    host.pin(store.url, identity.id, identity.fingerprint)
    return identity, fresh


def _check_free(store: Store, request: InitRequest) -> None:
    """Refuse a foreign cluster before anything is changed for it."""
    known = read_systems(store, request.cluster)
    found = request.system.system_identifier
    if known and known[-1].system_identifier != found and not request.new_system:
        raise unknown_system(request.cluster, found, known[-1])


def _check_same_sealing(identity: RepositoryIdentity, sealing: Sealing) -> None:
    """A second ``init`` may repeat how the repository is sealed, and not change it."""
    keys = identity.keys
    if not sealing.chosen:
        return
    now = "is not encrypted" if keys is None else "is sealed with a passphrase"
    if keys is not None and not keys.passphrase:
        now = f"is sealed to {', '.join(keys.recipients)}"
    if sealing.none:
        same = keys is None
    elif sealing.passphrase is not None:
        same = keys is not None and keys.passphrase
    else:
        same = keys is not None and set(sealing.recipients) == set(keys.recipients)
    if not same:
        raise RepositoryError(
            f"The repository exists already and {now}; that was not changed.",
            why="How a repository is sealed is chosen when it is made.",
            remedy="To join it, run pgkeep init without that option; "
            "to seal otherwise, use another URL.",
        )


def _accept(store: Store, host: HostState, identity: RepositoryIdentity, expected: str) -> None:
    if expected.lower() != identity.fingerprint:
        raise KeysChanged(
            f"The repository at {store.url} has the fingerprint {identity.fingerprint}, "
            f"and not {expected}.",
            remedy="Ask whoever made the repository for its fingerprint; write nothing to it.",
        )
    host.pin(store.url, identity.id, identity.fingerprint)


def _unlock(request: InitRequest) -> Unlock:
    """What was given to open secrets; a new repository's passphrase opens it, too."""
    given = request.unlock.passphrase
    return Unlock(request.unlock.identities, request.sealing.passphrase or given)


def _host_key(
    repository: Repository,
    host: HostState,
    request: InitRequest,
    unlock: Unlock,
    *,
    fresh: tuple[str, str] | None,
) -> tuple[str, Path | None]:
    """See to it that this host has a key, if that is possible; (state, where it was saved)."""
    identity = repository.identity
    keys = identity.keys
    if keys is None:
        return "unneeded", None
    if fresh is not None:
        key = HostKey(identity.fingerprint, fresh[0])
        return "made", host.save_host_key(identity.id, key)
    held = host.host_key(identity.id)
    if held is not None and age.public_of(held.identity) in {h["public"] for h in keys.hosts}:
        return "present", None
    opens = bool(unlock.identities) or (keys.passphrase and unlock.passphrase is not None)
    if not opens:
        return "missing", None
    path = None
    if held is None:
        held = HostKey(identity.fingerprint, age.generate_identity()[0])
        path = host.save_host_key(identity.id, held)
    add_host(
        repository.store,
        identity,
        metadata_secret=open_secret(keys.metadata_secret, keys, unlock),
        name=request.host_name,
        public=age.public_of(held.identity),
        at=request.at,
        by=dict(request.by),
    )
    return "made", path


def read_recipients(lines: list[str], where: str) -> list[str]:
    """The recipients in a file's lines, one each; ``#`` begins a comment line.

    Raises ``ConfigError`` when there is none.
    """
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not found:
        raise ConfigError(
            f"{where} names no recipient.", remedy="Write one age1… or ssh-ed25519 key a line."
        )
    return found
