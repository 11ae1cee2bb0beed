"""What an object store can do, found out by doing it.

A provider's name says nothing of the gateway in between, and a version says nothing of its
configuration. So one scratch object is created, created again, replaced under a wrong
condition and under the right one, then deleted. Readers ignore its folder.
"""

from __future__ import annotations

import os

from pgkeep.errors import (
    ObjectExists,
    PreconditionFailed,
    StoreDenied,
    StoreError,
    StoreUnavailable,
)
from pgkeep.storage.interface import Capabilities, Store

FOLDER = "pgkeep/probe/"


def try_out(store: Store) -> Capabilities:
    """A few small requests. Where these credentials may not make them, nothing is promised.

    Raises what the store raises when it cannot be reached.
    """
    key = f"{FOLDER}{os.urandom(16).hex()}"
    try:
        creates = _creates_once(store, key)
        swaps = _swaps_what_was_compared(store, key)
    except StoreDenied:
        return Capabilities(conditional_create=False, compare_and_swap=False)
    store.delete([key])
    return Capabilities(conditional_create=creates, compare_and_swap=swaps)


def _creates_once(store: Store, key: str) -> bool:
    try:
        store.put(key, b"pgkeep trial 1\n", if_absent=True)
    except (StoreDenied, StoreUnavailable):
        raise
    except StoreError:
        store.put(key, b"pgkeep trial 1\n")  # it does not even know the condition
        return False
    try:
        store.put(key, b"pgkeep trial 2\n", if_absent=True)
    except ObjectExists:
        return True
    return False


def _swaps_what_was_compared(store: Store, key: str) -> bool:
    try:
        store.replace(key, b"pgkeep trial 3\n", etag="0" * 32)
    except PreconditionFailed:
        pass
    except StoreUnavailable:
        raise
    except StoreError:
        return False  # it does not know the condition, or these credentials may only create
    else:
        return False
    try:
        store.replace(key, b"pgkeep trial 4\n", etag=store.head(key).etag)
    except StoreUnavailable:
        raise
    except StoreError:
        return False
    return True
