"""Object stores behind one small interface.

A *store* holds immutable *objects* under *keys*. :class:`Store` says what every store does,
``local`` and ``memory`` are stores; ``retry`` and ``faulty`` are decorators that wear another
store. :func:`open_store` turns a repository's URL into a store. Nothing here knows what the
objects mean. The package is on the start path of ``wal-push``, so it imports little.
"""

from pgkeep.storage.interface import (
    Buffer,
    Capabilities,
    ObjectInfo,
    Store,
    check_key,
)
from pgkeep.storage.open import open_store

__all__ = ["Buffer", "Capabilities", "ObjectInfo", "Store", "check_key", "open_store"]
