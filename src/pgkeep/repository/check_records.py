"""Checks as records: publishing what one found, and reading what is known (format, section 9).

The newest record says also what matters of all before it, so that a backup or a list reads one
object. Records of before that, and those of hosts that cannot read records, say only what they
found themselves: then those before them are read, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from pgkeep.errors import (
    DamagedObject,
    FormatTooNew,
    ObjectNotFound,
    StoreError,
    WrongIdentity,
)
from pgkeep.repository.checks import LEVELS, QUICK, Check, CheckHistory, Finding, Pass, Verdict
from pgkeep.repository.identity import Repository
from pgkeep.repository.layout import Layout, numbered
from pgkeep.repository.record import list_numbered, member, publish
from pgkeep.repository.sealed_record import build_sealed_record, parse_sealed_record
from pgkeep.seal import envelope
from pgkeep.seal.envelope import damaged
from pgkeep.storage.fallback import stores_of

MOST_OBJECTS = 10_000
"""How many objects that are not good one record names."""
_MOST_READ = 256
_HEADER_BYTES = 1024
_UNREADABLE = (DamagedObject, FormatTooNew, WrongIdentity, ObjectNotFound)


def record_check(
    repository: Repository,
    layout: Layout,
    check: Check,
    *,
    by: Mapping[str, Any],
    known: Collection[str] = (),
) -> str:
    """Publish what a check found, and with it what matters of those before; returns its key.

    ``known`` are the backups that are there: of others nothing is carried on. Raises what the store
    raises.
    """

    def build(number: int) -> bytes:
        # Read here and not before the check: another one may have ended meanwhile.
        earlier = None
        if check.catalogue and repository.keyring.can_read_metadata:
            earlier = _history(repository, layout).what_matters(known)
        key = numbered(layout.checks, number)
        return build_sealed_record(
            repository.keyring,
            key,
            _members(check, earlier),
            at=check.at,
            by=dict(by),
            header=_plain_header(check),
        )

    return publish(repository.store, layout.checks, build)


def read_checks(repository: Repository, layout: Layout) -> CheckHistory:
    """What the checks of a system say; records that cannot be read are left out, for they only
    inform. Of several repositories that are read as one, each has its own.

    Nothing without the metadata key. Raises what the store raises.
    """
    if not repository.keyring.can_read_metadata:
        return CheckHistory()
    stores = stores_of(repository.store)
    if len(stores) == 1:
        return _history(repository, layout)
    found: CheckHistory | None = None
    problem: StoreError | None = None
    for store in stores:
        try:
            history = _history(repository._replace(store=store), layout)
            found = history if found is None else found.beside(history)
        except StoreError as error:
            problem = error  # one that is away has been told of, and is left out
    if found is None and problem is not None:
        raise problem
    return found or CheckHistory()


def read_pass(repository: Repository, layout: Layout, level: str) -> Pass | None:
    """Where the last pass of this level stands, as plain headers tell it: for a host without the
    metadata key. Raises what the store raises."""
    for key in _newest_keys(repository, layout):
        try:
            header, _ = envelope.fetch_header(
                repository.store,
                key,
                object_type=envelope.SEALED_RECORD,
                repository_id=repository.keyring.repository_id,
                first_bytes=_HEADER_BYTES,
            )
            plain = header.plain
            if plain.get("key") == key and plain.get("kind") == level and "until" in plain:
                began, stopped = member(plain, "round_began", str, name=key), plain.get("stopped")
                return Pass(began, _key_or_none(plain["until"], key), None, stopped is True)
        except _UNREADABLE:
            continue
    return None


def _history(repository: Repository, layout: Layout) -> CheckHistory:
    """Read records, newest first, until one says what matters of the others; then go back up."""
    found: list[Check] = []
    for check in _checks(repository, layout):
        found.append(check)
        if check.earlier is not None:
            break
    history = (found[-1].earlier if found else None) or CheckHistory()
    for check in reversed(found):
        history = history.after(check)
    return history


def _checks(repository: Repository, layout: Layout) -> Iterator[Check]:
    for key in _newest_keys(repository, layout):
        try:
            data = repository.store.get(key)
            check = _parse(parse_sealed_record(data, key, repository.keyring), key)
        except _UNREADABLE:
            continue
        if check is not None:
            yield check


def _newest_keys(repository: Repository, layout: Layout) -> list[str]:
    names = [info.key for info in list_numbered(repository.store, layout.checks)]
    return names[: -_MOST_READ - 1 : -1]


def _plain_header(check: Check) -> dict[str, Any]:
    """What a scrub without keys needs to go on."""
    if check.kind == QUICK:
        return {}
    return {
        "kind": check.kind,
        "after": check.after,
        "until": check.until,
        "round_began": check.round_began,
        "stopped": check.stopped,
    }


# -- members ------------------------------------------------------------------------------------


def _members(check: Check, earlier: CheckHistory | None) -> dict[str, Any]:
    details: dict[str, Any] = {
        "again": list(check.again),
        "after": check.after,
        "until": check.until,
        "round_began": check.round_began,
        "candidates": _list(check.candidates),
        "stopped": check.stopped,
        "backups": list(check.backups),
        "broken": list(check.broken),
        "catalogue": check.catalogue,
        "read_objects": check.read_objects,
        "read_bytes": check.read_bytes,
    }
    if earlier is not None:
        details["earlier"] = {
            "bad": _objects(earlier.bad),
            "proved": {backup: dict(proofs) for backup, proofs in earlier.proved.items()},
            "broken": {name: [one.level, one.at] for name, one in earlier.broken.items()},
            "passes": {
                level: {
                    "began": one.began,
                    "until": one.until,
                    "backups": _list(one.backups),
                    "stopped": one.stopped,
                }
                for level, one in earlier.passes.items()
            },
        }
    return {
        "backup": None,
        "kind": check.kind,
        "result": check.result,
        "seconds": round(check.seconds, 3),
        "objects": _objects(check.bad),
        "details": details,
    }


def _objects(bad: Mapping[str, Finding]) -> list[dict[str, Any]]:
    """What a listing shows to anybody may be cut off, and comes last."""
    found = sorted(bad.items(), key=lambda item: (item[1].level == QUICK, item[0]))
    return [
        {"key": key, "result": "bad", "level": one.level, "flaw": one.is_flaw, "text": one.text}
        for key, one in found[:MOST_OBJECTS]
    ]


def _parse(members: dict[str, Any], key: str) -> Check | None:
    """None for a kind that is not known here, or a check of one backup."""
    kind = member(members, "kind", str, name=key)
    if kind not in LEVELS or members.get("backup") is not None:
        return None
    details = member(members, "details", dict, name=key)

    def parse() -> Check:
        earlier = details.get("earlier")
        catalogue = details.get("catalogue")
        return Check(
            kind,
            members["at"],
            float(members["seconds"]),
            _findings(members["objects"], kind),
            _texts(details.get("again", [])),
            str(details["after"]),
            _key_or_none(details["until"], key),
            str(details["round_began"]),
            None if details.get("candidates") is None else _texts(details["candidates"]),
            details.get("stopped") is True,
            _texts(details["backups"]),
            _texts(details["broken"]),
            None if catalogue is None else bool(catalogue),
            int(details["read_objects"]),
            int(details["read_bytes"]),
            None if earlier is None else _earlier(earlier, key),
        )

    return _well_formed(parse, key)


def _earlier(members: Any, key: str) -> CheckHistory:
    return CheckHistory(
        _findings(members["bad"], ""),
        {
            str(backup): {str(level): str(at) for level, at in proofs.items() if level in LEVELS}
            for backup, proofs in members["proved"].items()
        },
        {
            str(name): Verdict(_level(level, ""), str(at), False)
            for name, (level, at) in members["broken"].items()
        },
        {
            _level(level, ""): Pass(
                str(one["began"]),
                _key_or_none(one["until"], key),
                None if one["backups"] is None else _texts(one["backups"]),
                one["stopped"] is True,
            )
            for level, one in members["passes"].items()
        },
    )


def _findings(objects: Any, usual: str) -> dict[str, Finding]:
    """``usual`` is the level of those that do not tell it, as records of old."""
    return {
        str(one["key"]): Finding(
            _level(one.get("level", usual), usual), str(one["text"]), one.get("flaw") is True
        )
        for one in objects
    }


def _level(text: Any, usual: str) -> str:
    level = text if text in LEVELS else usual
    if level not in LEVELS:
        raise ValueError(f"{text!r} is no level")
    return level


def _well_formed(parse: Callable[[], Check], key: str) -> Check:
    try:
        return parse()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(key, f"its members are malformed ({error})") from error


def _key_or_none(found: Any, key: str) -> str | None:
    if found is not None and not isinstance(found, str):
        raise damaged(key, "its place in the objects is malformed")
    return found


def _texts(found: Any) -> tuple[str, ...]:
    return tuple(map(str, found))


def _list(found: tuple[str, ...] | None) -> list[str] | None:
    return None if found is None else list(found)
