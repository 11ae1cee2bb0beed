"""Whether a store refuses to create an object that is there already, and what if it does not.

Upon this rests that of two servers which archive under one name by mistake the second is told.
Some gateways ignore the condition without a word, and only trying tells. That takes a handful of
requests, too many for each segment: so a host remembers for a while what it found out.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pgkeep.storage.open import is_object_url

if TYPE_CHECKING:
    from pathlib import Path

    from pgkeep.storage.interface import Store

TRUSTED_SECONDS = 30 * 24 * 3600.0
"""A gateway may be put in between at any time."""
_REFUSES, _IGNORES = b"refuses\n", b"ignores\n"


def with_conditions(store: Store, folder: Path) -> Store:
    """``store``, which looks first where it would not refuse a second create by itself.

    Only object stores are tried; directories and SFTP are by whoever opens them. ``folder`` holds
    what is remembered; where nothing can be, nothing is tried, since it would be each time, and
    what was found out long ago still holds. Raises ``StoreError`` when the store cannot be reached.
    """
    if not is_object_url(store.url):
        return store
    from pgkeep.storage.look_first import LookFirstStore

    found = _found_out(store, folder)
    return store if found in (_REFUSES, None) else LookFirstStore(store)


def _found_out(store: Store, folder: Path) -> bytes | None:
    from blake3 import blake3

    note = folder / blake3(store.url.encode("utf-8", "surrogateescape")).hexdigest(length=12)
    known = None
    with suppress(OSError):
        known = note.read_bytes()
        is_fresh = 0 <= time.time() - note.stat().st_mtime < TRUSTED_SECONDS
        if is_fresh and known in (_REFUSES, _IGNORES):
            return known
    try:
        # Before the store is tried: a host that can remember nothing would try it each time.
        folder.mkdir(mode=0o700, exist_ok=True)
        note.write_bytes(b"")
    except OSError:
        return known or None
    found = _REFUSES if store.capabilities.conditional_create else _IGNORES
    with suppress(OSError):
        note.write_bytes(found)
    return found
