"""What lies in a repository for whoever finds it without pgkeep: a page to read, a script to run.

Both are created and never rewritten, as everything is. A later script gets a key of its own beside
the first, ``pgkeep/rescue-2.py``: the highest number is the newest, and the older ones still work.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.errors import ObjectExists, StoreDenied
from pgkeep.repository import layout
from pgkeep.setup.sheet import README_KEY, readme_text

if TYPE_CHECKING:
    from pgkeep.repository.identity import RepositoryIdentity
    from pgkeep.storage.interface import Store

_VERSION = re.compile(rb"^RESCUE_VERSION = (\d+)$", re.MULTILINE)


def put_papers(store: Store, identity: RepositoryIdentity) -> None:
    """Put the page and the script where they are missing; what is there stays.

    Credentials that may not create under ``pgkeep/`` leave that to others. Raises ``StoreError``.
    """
    _put(store, README_KEY, readme_text(identity).encode())
    put_rescue(store)


def put_rescue(store: Store) -> None:
    """Put this version of the rescue script, if it is missing. Raises ``StoreError``."""
    content = rescue_script()
    _put(store, rescue_key(content), content)


def rescue_script() -> bytes:
    """The script as it is installed with pgkeep. It is never imported."""
    return Path(__file__).with_name("rescue.py").read_bytes()


def rescue_key(content: bytes) -> str:
    """Where a script of its version lies."""
    found = _VERSION.search(content)
    assert found is not None, "the script says its version"
    version = int(found[1])
    return f"{layout.RESCUE}.py" if version == 1 else f"{layout.RESCUE}-{version}.py"


def _put(store: Store, key: str, content: bytes) -> None:
    with suppress(ObjectExists, StoreDenied):  # there already, or not ours to put
        if not store.exists(key):
            store.put(key, content, if_absent=store.capabilities.conditional_create)
