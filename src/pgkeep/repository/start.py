"""What nearly every command reads first: who the repository is, its keys, the cluster's systems.

One after the other these are seven requests. They are two round trips here: what can be named, then
what the listings name.
"""

from __future__ import annotations

from pgkeep.repository import layout
from pgkeep.repository.record import list_numbered
from pgkeep.storage.asked_ahead import AskedAhead
from pgkeep.storage.interface import Store


def ask_for_start(store: Store, cluster: str) -> AskedAhead:
    """``store``, with these records read ahead. Raises nothing for the store's sake."""
    ahead = AskedAhead(store)
    systems = layout.systems(cluster)
    ahead.ask(objects=[layout.IDENTITY], prefixes=[layout.KEYS, systems])
    ahead.ask(objects=[*_numbered(ahead, layout.KEYS)[-1:], *_numbered(ahead, systems)])
    return ahead


def _numbered(ahead: AskedAhead, prefix: str) -> list[str]:
    """The keys of the records under a prefix that was asked for."""
    return [info.key for info in list_numbered(ahead, prefix)] if ahead.knows(prefix) else []
