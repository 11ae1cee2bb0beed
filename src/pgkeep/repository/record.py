"""Records: small plain objects that say one thing, readable with any pager (format, section 2).

Their last line is a hash of the first, so that a scrub treats them like everything else. The hash
is no proof of who wrote: a record may say anything, so whoever reads one asks for each member by
its type, and what does not fit is a damaged object and never a Python error.

Numbered records replace what other tools keep in one mutable file: publishing is creating the
next free number, and who loses that race looks again.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pgkeep.errors import (
    DamagedObject,
    FormatTooNew,
    ObjectExists,
    ObjectNotFound,
    RepositoryError,
)
from pgkeep.repository.layout import NUMBER_DIGITS, numbered
from pgkeep.seal.envelope import json_object

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pgkeep.storage.interface import ObjectInfo, Store

FORMAT_VERSION = 1
_ATTEMPTS = 20
_T = TypeVar("_T")


def build_record(kind: str, members: dict[str, Any], *, at: str, by: dict[str, Any]) -> bytes:
    """The stored bytes of a record; ``at`` is UTC text, ``by`` the writer."""
    from blake3 import blake3

    whole = {"pgkeep": FORMAT_VERSION, "type": kind, "at": at, "by": by, **members}
    line = json.dumps(whole, separators=(", ", ": "), ensure_ascii=False).encode() + b"\n"
    return line + b"blake3 " + blake3(line).hexdigest().encode() + b"\n"


def parse_record(data: bytes, name: str, *, kind: str | tuple[str, ...]) -> dict[str, Any]:
    """The members of the record stored as ``name``, which is of this kind, or one of these.

    Raises ``DamagedObject``, ``FormatTooNew``.
    """
    members = json_object(check_hash(data, name), name, "it")
    version = member(members, "pgkeep", int, name=name)
    if version > FORMAT_VERSION:
        raise FormatTooNew(
            f"{name} was written in format {version}; this pgkeep reads up to {FORMAT_VERSION}.",
            remedy="Upgrade pgkeep on this host.",
        )
    kinds = (kind,) if isinstance(kind, str) else kind
    if members.get("type") not in kinds:
        wanted = " or ".join(repr(one) for one in kinds)
        raise DamagedObject(f"{name} is a {members.get('type')!r} record, not a {wanted} one.")
    member(members, "at", str, name=name)
    member(members, "by", dict, name=name)
    return members


def check_hash(data: bytes, name: str) -> bytes:
    """The line of a record's members, its hash compared. Raises ``DamagedObject``."""
    from blake3 import blake3

    line, separator, tail = data.partition(b"\n")
    digest = blake3(line + separator).hexdigest().encode()
    if tail != b"blake3 " + digest + b"\n":
        raise _damaged(name, "its bytes do not match the hash they were stored with")
    return line


def read_record(store: Store, key: str, *, kind: str | tuple[str, ...]) -> dict[str, Any]:
    """The members of a stored record, from whichever repository has a sound one.

    Raises ``ObjectNotFound``, and as :func:`parse_record`.
    """
    try:
        return parse_record(store.get(key), key, kind=kind)
    except DamagedObject:
        from pgkeep.storage.fallback import read_sound

        return read_sound(store, key, lambda one: parse_record(one.get(key), key, kind=kind))


def member(members: Mapping[str, Any], key: str, kind: type[_T], *, name: str) -> _T:
    """A member that must be there and be of this type. Raises ``DamagedObject``."""
    found = members.get(key)
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        raise _damaged(name, f"its member {key!r} is missing or of the wrong type")
    return found


def list_numbered(
    store: Store, prefix: str, *, digits: int = NUMBER_DIGITS, after: int = 0
) -> Iterator[ObjectInfo]:
    """The numbered objects under ``prefix`` (which ends with a slash), in order, above ``after``.

    Other names are left out: a later version of the format may have them.
    """
    start = numbered(prefix, after, digits=digits) if after else None
    for info in store.list(prefix, start_after=start):
        if _is_number(info.key[len(prefix) :], digits):
            yield info


def newest(
    store: Store, prefix: str, *, digits: int = NUMBER_DIGITS, after: int = 0
) -> ObjectInfo | None:
    """The numbered object of the highest number under ``prefix`` (which ends with a slash).

    ``after`` is a number that is known to be taken, which spares listing what lies before it; with
    nothing above it, the answer is None.
    """
    last = None
    for info in list_numbered(store, prefix, digits=digits, after=after):
        last = info
    return last


def publish(
    store: Store,
    prefix: str,
    build: Callable[[int], bytes],
    *,
    digits: int = NUMBER_DIGITS,
    after: int = 0,
) -> str:
    """Create the next free number under ``prefix`` with ``build(number)``; returns its key.

    ``build`` is called again for each lost race, so that it can look at what the winner wrote.
    ``after`` as in :func:`newest`. Raises ``ObjectExists`` after many lost races.
    """
    lost: ObjectExists | None = None
    for _ in range(_ATTEMPTS):
        last = newest(store, prefix, digits=digits, after=after)
        number = int(last.key[len(prefix) :]) + 1 if last else after + 1
        if number >= 10**digits:
            raise RepositoryError(f"There is no number left under {prefix}.")
        key, data = numbered(prefix, number, digits=digits), build(number)
        try:
            store.put(key, data, if_absent=True)
        except ObjectExists as error:
            lost = error
            try:
                if store.get(key) == data:  # the echo of our own attempt, whose answer was lost
                    return key
            except ObjectNotFound:
                continue  # a store may refuse a create for another one that failed: look again
            after = number
        else:
            return key
    assert lost is not None
    raise lost


def _is_number(text: str, digits: int) -> bool:
    return len(text) == digits and text.isascii() and text.isdigit()


def _damaged(name: str, why: str) -> DamagedObject:
    return DamagedObject(
        f"{name} is damaged: {why}.",
        remedy="Restore this object from a copy of the repository.",
        object=name,
    )
