"""A store that ignores the condition of a create, used as safely as it can be."""

from __future__ import annotations

from collections.abc import Sequence

from pgkeep.errors import ObjectExists
from pgkeep.storage.interface import Buffer
from pgkeep.storage.wrapped import WrappedStore


class LookFirstStore(WrappedStore):
    """Before ``store`` is to create an object, it is asked whether there is one.

    Two writers that do so in the same moment do not notice each other.
    """

    def put(self, key: str, data: Buffer | Sequence[Buffer], *, if_absent: bool = False) -> str:
        """See :meth:`Store.put`."""
        if if_absent and self.store.exists(key):
            raise ObjectExists(f"There is an object {key} in {self.url} already.", key=key)
        return self.store.put(key, data, if_absent=if_absent)
