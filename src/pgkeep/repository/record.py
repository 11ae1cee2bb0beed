"""Records: small plain objects that say one thing, readable with any pager (format, section 2).

Their last line is a hash of the first, so that a scrub treats them like everything else.
Numbered records replace what other tools keep in one mutable file: publishing is creating the
next free number, and who loses that race looks again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pgkeep.errors import DamagedObject, FormatTooNew, ObjectExists
from pgkeep.repository.layout import NUMBER_DIGITS, numbered
from pgkeep.storage.interface import ObjectInfo, Store

FORMAT_VERSION = 1
_ATTEMPTS = 20


def build_record(kind: str, members: dict[str, Any], *, at: str, by: dict[str, Any]) -> bytes:
    """The stored bytes of a record; ``at`` is UTC text, ``by`` the writer."""
    from blake3 import blake3

    whole = {"pgkeep": FORMAT_VERSION, "type": kind, "at": at, "by": by, **members}
    line = json.dumps(whole, separators=(", ", ": "), ensure_ascii=False).encode() + b"\n"
    return line + b"blake3 " + blake3(line).hexdigest().encode() + b"\n"


def parse_record(data: bytes, name: str, *, kind: str) -> dict[str, Any]:
    """The members of the record stored as ``name``. Raises ``DamagedObject``, ``FormatTooNew``."""
    from blake3 import blake3

    line, separator, tail = data.partition(b"\n")
    digest = blake3(line + separator).hexdigest().encode()
    if tail != b"blake3 " + digest + b"\n":
        raise DamagedObject(
            f"{name} is damaged: its bytes do not match the hash they were stored with.",
            remedy="Restore this object from a copy of the repository.",
            object=name,
        )
    members: dict[str, Any] = json.loads(line)
    if members.get("pgkeep", 0) > FORMAT_VERSION:
        raise FormatTooNew(
            f"{name} was written in format {members['pgkeep']}; "
            f"this pgkeep reads up to {FORMAT_VERSION}.",
            remedy="Upgrade pgkeep on this host.",
        )
    if members.get("type") != kind:
        raise DamagedObject(f"{name} is a {members.get('type')!r} record, not a {kind!r} one.")
    return members


def newest(store: Store, prefix: str) -> ObjectInfo | None:
    """The numbered object of the highest number under ``prefix`` (which ends with a slash)."""
    last = None
    for info in store.list(prefix):
        if _is_number(info.key[len(prefix) :]):
            last = info
    return last


def publish(store: Store, prefix: str, build: Callable[[int], bytes]) -> ObjectInfo:
    """Create the next free number under ``prefix`` with ``build(number)``.

    ``build`` is called again for each lost race, so that it can look at what the winner wrote.
    Raises ``ObjectExists`` after many lost races.
    """
    lost: ObjectExists | None = None
    for _ in range(_ATTEMPTS):
        last = newest(store, prefix)
        number = int(last.key[len(prefix) :]) + 1 if last else 1
        try:
            return store.put(numbered(prefix, number), build(number), if_absent=True)
        except ObjectExists as error:
            lost = error
    assert lost is not None
    raise lost


def _is_number(text: str) -> bool:
    return len(text) >= NUMBER_DIGITS and text.isdigit()
