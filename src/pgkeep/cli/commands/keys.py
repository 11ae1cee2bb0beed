"""``pgkeep keys``: who can open the repository, and changing that."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.cli.context import Context
from pgkeep.cli.render import pairs
from pgkeep.cli.session import now_text, open_host_state, unlock_of, writer_facts
from pgkeep.errors import (
    ConfigError,
    IdentityNeeded,
    MirrorsDiffer,
    NoRepository,
    UsageError,
)

if TYPE_CHECKING:
    from pgkeep.mirror.member import Member
    from pgkeep.repository.identity import KeySet, RepositoryIdentity

EXAMPLES = (
    ("pgkeep keys list", "who can open it, and which hosts can read its metadata"),
    ("pgkeep keys add --recipient age1…", "one more, for all that is and will be there"),
    ("pgkeep keys remove --recipient age1…", "from here on new data is sealed to new keys"),
    ("pgkeep keys rotate", "new keys for new data, for whatever reason"),
    ("pgkeep keys remove --host db1", "a host that was given up, or broken into"),
    ("pgkeep keys passphrase --passphrase-file FILE", "another passphrase, or one at all"),
)
ACTIONS = ("list", "add", "remove", "rotate", "passphrase")


def add_arguments(parser: ArgumentParser) -> None:
    """What, and for whom."""
    parser.add_argument(
        "action", choices=ACTIONS, metavar="ACTION", help="list, add, remove, rotate or passphrase"
    )
    parser.add_argument(
        "--recipient",
        action="append",
        default=[],
        metavar="KEY",
        help="an age or SSH public key to add or remove; may be repeated",
    )
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="remove: a host that shall not read new metadata; may be repeated",
    )
    parser.add_argument(
        "--passphrase-file", metavar="FILE", help="passphrase: the file that holds the new one"
    )


def run(context: Context, args: Namespace) -> int:
    """Show the keys, or change them in every repository, and say what that means."""
    from pgkeep.repository.identity import read_identity

    _check_usage(args)
    members = _members(context)
    identity = read_identity(members[0].store)
    if identity.keys is None:
        raise UsageError(
            f"{members[0].url} is not encrypted, and has no keys.",
            remedy="How a repository is sealed is chosen when it is made, by pgkeep init.",
        )
    if args.action == "list":
        _show(context, identity, identity.keys)
        return 0
    new, told = _changed(context, args, identity, identity.keys)
    fingerprint = identity._replace(keys=new).fingerprint
    rotated = fingerprint != identity.fingerprint
    if rotated and not context.output.json:
        # Before it is done: whoever kills the command in the middle will need it.
        context.output.say(f"New fingerprint: {fingerprint}")
        context.output.stdout.flush()
    _publish(context, members, identity, new)
    context.log.info("keys-changed", action=args.action, fingerprint=fingerprint)
    document = {
        "fingerprint": fingerprint,
        "rotated": rotated,
        "recipients": list(new.recipients),
        "passphrase": new.passphrase,
        "hosts": [host["name"] for host in new.hosts],
        "told": told,
    }
    context.output.result(document, lambda: _tell(context, told))
    if rotated and not context.output.json:
        say = context.output.say
        if context.settings.host_key:
            say("This host refuses the repository, too, until its host key (PGKEEP_HOST_KEY) has")
            say("the new fingerprint in the place of the old one. So does every other host until")
            say("it is told:")
        else:
            say("This host knows it. Every other host refuses the repository until it is told:")
        say(f"  pgkeep init --accept-fingerprint {fingerprint}")
        say("Until then its archive command fails, and the server keeps its WAL: do it soon.")
    return 0


def _tell(context: Context, lines: Sequence[str]) -> None:
    for line in lines:
        context.output.say(line)


def _check_usage(args: Namespace) -> None:
    wanted = {"add": bool(args.recipient), "remove": bool(args.recipient or args.host)}
    wanted["passphrase"] = bool(args.passphrase_file)
    if not wanted.get(args.action, True):
        raise UsageError(f"pgkeep keys {args.action} does not say whom, or what to.")
    if args.passphrase_file and args.action != "passphrase":
        raise UsageError("--passphrase-file goes with pgkeep keys passphrase.")
    if args.host and args.action != "remove":
        raise UsageError(
            "--host goes with pgkeep keys remove.",
            remedy="To add a host, run pgkeep init there with PGKEEP_IDENTITY.",
        )
    if args.recipient and args.action not in ("add", "remove"):
        raise UsageError("--recipient goes with pgkeep keys add, or remove.")


def _members(context: Context) -> list[Member]:
    """All repositories; keys are changed in all of them or in none. Raises ``MirrorsDiffer``.

    One that was left behind by a change that was broken off is brought up to the others first.
    """
    from pgkeep.cli.members import open_member, settings_by_name
    from pgkeep.repository.identity import read_identity

    members = []
    for name, settings in settings_by_name(context.settings).items():
        member = open_member(context, name, settings)
        try:
            read_identity(member.store)
        except NoRepository as error:
            if name == "main":
                raise
            raise MirrorsDiffer(
                f"The repository {name!r} is not there, and keys are changed in all or in none.",
                why=error.what,
                remedy="Make it with pgkeep init, or take it out of the settings for now.",
            ) from error
        members.append(member)
    return _aligned(context, members)


def _aligned(context: Context, members: list[Member]) -> list[Member]:
    """With the one first whose keys are the newest, and the same keys in all."""
    from pgkeep.mirror.member import check_same_identity
    from pgkeep.repository.identity import read_identity
    from pgkeep.repository.key_change import publish_keys

    found = {member.name: read_identity(member.store) for member in members}

    def age_of(member: Member) -> int:
        keys = found[member.name].keys
        return len(keys.previous) if keys else 0

    members = sorted(members, key=age_of, reverse=True)
    newest = found[members[0].name]
    host = open_host_state(context.settings, context.owner_uid)
    for member in members:
        known = found[member.name]
        former = [(one["repository_public"], one["metadata_public"]) for one in _previous(newest)]
        keys = known.keys
        is_behind = keys and (keys.repository_public, keys.metadata_public) in former
        if known.id == newest.id and is_behind and newest.keys:
            _check_succession(context, newest.keys, str(members[0]))
            publish_keys(member.store, known, newest.keys, at=now_text(), by=writer_facts())
            host.pin(member.url, newest.id, newest.fingerprint)
            continue
        check_same_identity(known, member, newest, str(members[0]))
        host.check_pin(member.url, known.id, known.fingerprint)
    return members


def _check_succession(context: Context, keys: KeySet, where: str) -> None:
    """See that whoever made the newest keys had the former ones: by their secrets, which he sealed
    to the new. Who can only write to a store knows the public halves alone.

    Raises ``MirrorsDiffer`` without an identity, ``WrongIdentity``, ``KeysChanged``.
    """
    from pgkeep.repository.key_change import open_all
    from pgkeep.repository.keys import check_pair

    try:
        secrets = open_all(keys, unlock_of(context.settings))
    except IdentityNeeded as error:
        raise MirrorsDiffer(
            f"{where} has newer keys than the other repositories.",
            why="A change of keys was broken off, or somebody put them there.",
            remedy="Run pgkeep keys list with PGKEEP_IDENTITY, which finds out, and goes on.",
        ) from error
    check_pair(secrets.repository[0], keys.repository_public)
    for secret, pair in zip(secrets.repository[1:], keys.previous, strict=True):
        check_pair(secret, pair["repository_public"])


def _previous(identity: RepositoryIdentity) -> Sequence[dict[str, str]]:
    return identity.keys.previous if identity.keys else ()


def _changed(
    context: Context, args: Namespace, identity: RepositoryIdentity, keys: KeySet
) -> tuple[KeySet, list[str]]:
    """The new keys, and what the change means."""
    from pgkeep.repository.key_change import open_all, rotated, sealed_to
    from pgkeep.seal import age

    unlock = unlock_of(context.settings)
    secrets = open_all(keys, unlock)
    given = [text.strip() for text in args.recipient]
    if args.action == "add":
        for text in given:
            age.parse_recipient(text)
        recipients = tuple(dict.fromkeys((*keys.recipients, *given)))
        new = sealed_to(keys, secrets, recipients, None)
        told = [
            f"Sealed to {len(recipients)} recipients now. Each of them can read all that is there, "
            "and all that comes."
        ]
        if keys.passphrase:
            told.append(
                "The passphrase does not open it any more. Whoever has it and an old copy of the "
                "record under pgkeep/keys still can: if that may be, run pgkeep keys rotate."
            )
        return new, told
    if args.action == "passphrase":
        new = sealed_to(keys, secrets, (), _passphrase(args.passphrase_file))
        return new, [
            "The new passphrase opens all that is there, and all that comes.",
            "Whoever has an old copy of the record under pgkeep/keys and the former passphrase or "
            "key can still open everything: if that is known to others, run pgkeep keys rotate.",
        ]
    if unknown := [text for text in given if text not in keys.recipients]:
        raise UsageError(f"{unknown[0]} is not a recipient.", remedy="See pgkeep keys list.")
    names = {host["name"] for host in keys.hosts}
    if missing := [name for name in args.host if name not in names]:
        raise UsageError(f"There is no host {missing[0]!r}.", remedy="See pgkeep keys list.")
    left = [text for text in keys.recipients if text not in given]
    if given and not left:
        raise UsageError(
            "Nobody could open the repository any more.", remedy="Add another recipient first."
        )
    passphrase = unlock.passphrase if keys.passphrase else None
    new = rotated(keys, secrets, left, passphrase, without_hosts=args.host)
    if given:
        _check_still_opens(new, unlock)
    return new, _meaning(given, args.host)


def _check_still_opens(new: KeySet, unlock: object) -> None:
    """Whoever removes himself by mistake would find out when it is too late."""
    from pgkeep.errors import WrongIdentity
    from pgkeep.repository.identity import Unlock
    from pgkeep.repository.keys import open_first

    assert isinstance(unlock, Unlock)
    try:
        open_first(new, unlock)
    except WrongIdentity as error:
        raise UsageError(
            "The identity that is set here is the one to be removed.",
            remedy="Run this with the identity of a recipient who stays.",
        ) from error


def _meaning(recipients: Sequence[str], hosts: Sequence[str]) -> list[str]:
    lines = ["New data is sealed to new keys from here on."]
    lines += [
        f"{text} can still read what was stored until now, wherever a copy of it is."
        for text in recipients
    ]
    lines += [
        f"The host {name} can still read names and sizes of files, and page hashes, of backups "
        "made until now; pages, WAL and dumps it never could."
        for name in hosts
    ]
    if not (recipients or hosts):
        lines.append("Who could read what was stored until now still can.")
    return lines


def _passphrase(path: str) -> str:
    try:
        text = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read.", remedy="Check the path, and who may read it."
        ) from error
    if not text:
        raise ConfigError(f"The passphrase file {path} is empty.")
    return text


def _publish(
    context: Context, members: Sequence[Member], identity: RepositoryIdentity, new: KeySet
) -> None:
    """In every repository, and known to this host as soon as it is."""
    from pgkeep.repository.host import HostKey
    from pgkeep.repository.key_change import publish_keys

    host = open_host_state(context.settings, context.owner_uid)
    fingerprint = identity._replace(keys=new).fingerprint
    for member in members:
        publish_keys(member.store, identity, new, at=now_text(), by=writer_facts())
        host.pin(member.url, identity.id, fingerprint)
    held = host.host_key(identity.id)
    if held is not None and not context.settings.host_key:
        host.save_host_key(identity.id, HostKey(fingerprint, held.identity))


def _show(context: Context, identity: RepositoryIdentity, keys: KeySet) -> None:
    host = open_host_state(context.settings, context.owner_uid)
    held = host.host_key(identity.id)
    own = ""
    if held is not None:
        from pgkeep.seal import age

        own = age.public_of(held.identity)
    opened = ["the passphrase"] if keys.passphrase else list(keys.recipients)
    hosts = [f"{one['name']}{' (this host)' if one['public'] == own else ''}" for one in keys.hosts]
    document = {
        "repository": identity.id,
        "fingerprint": identity.fingerprint,
        "recipients": list(keys.recipients),
        "passphrase": keys.passphrase,
        "hosts": [{"name": one["name"], "this": one["public"] == own} for one in keys.hosts],
        "former_keys": len(keys.previous),
    }

    def render() -> None:
        rows = [("repository", identity.id), ("fingerprint", identity.fingerprint)]
        rows += [("opened by" if not at else "", text) for at, text in enumerate(opened)]
        rows += [("metadata read by" if not at else "", text) for at, text in enumerate(hosts)]
        if keys.previous:
            rows.append(("former keys", f"{len(keys.previous)}, for what was stored before"))
        for line in pairs(rows):
            context.output.say(line)

    context.output.result(document, render)
