"""What is in two repositories under one key and is not the same.

Objects are immutable, so equal keys mean equal bytes, with one exception: a WAL file that was
pushed to two repositories at different times was sealed twice. Then its content is compared, as far
as the keys at hand open it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pgkeep.errors import DamagedObject, ObjectNotFound
from pgkeep.mirror.listing import Sizes, sizes_of
from pgkeep.mirror.member import Member
from pgkeep.mirror.transfer import sound
from pgkeep.progress import Progress
from pgkeep.repository.layout import Layout
from pgkeep.repository.wal import open_wal_object, salted_hash
from pgkeep.seal.keyring import Keyring

_THREADS = 4


class Difference(NamedTuple):
    """An object, and how it is not the same in both."""

    key: str
    what: str


def compare(
    target: Member,
    others: Sequence[Member],
    layouts: Sequence[Layout],
    *,
    keyring: Keyring,
    contents: bool,
    progress: Progress,
) -> Iterator[Difference]:
    """Differences between the target and each of the others; bytes are read with ``contents``."""
    for layout in layouts:
        ours = _sizes(target, layout)
        for other in others:
            both = {key: size for key, size in _sizes(other, layout).items() if key in ours}
            progress.phase(f"comparing {target} with {other}")
            progress.total(sum(both.values()), len(both))
            yield from _compare(target, other, layout, ours, both, keyring, contents, progress)


def _compare(
    target: Member,
    other: Member,
    layout: Layout,
    ours: Sizes,
    both: Sizes,
    keyring: Keyring,
    contents: bool,
    progress: Progress,
) -> Iterator[Difference]:
    def look(key: str) -> Difference | None:
        size = both[key]
        is_wal = key.startswith((layout.wal, layout.history))
        found = None
        if size != ours[key] and not is_wal:
            found = f"{ours[key]} bytes in {target}, {size} in {other}"
        elif contents:
            found = _different(target, other, key, keyring if is_wal else None)
        progress.advance(size)
        return Difference(key, found) if found else None

    with ThreadPoolExecutor(_THREADS) as pool:
        for one in pool.map(look, sorted(both)):
            if one is not None:
                yield one


def _different(target: Member, other: Member, key: str, keyring: Keyring | None) -> str | None:
    """How the two differ; ``keyring`` is given for WAL, of which only the content counts."""
    data = []
    for member in (target, other):
        try:
            data.append(sound(member.store, key))
        except DamagedObject as error:
            return f"damaged in {member}: {error.what}"
        except ObjectNotFound:
            return None  # deleted meanwhile
    if data[0] == data[1]:
        return None
    if keyring is None:
        return f"other bytes in {target} than in {other}"
    header, frames = open_wal_object(data[0], key, keyring)
    theirs, _ = open_wal_object(data[1], key, keyring)
    if header.size == theirs.size and not keyring.can_read_data:
        return None  # sealed twice, and nobody here can say more
    content = b"".join(frames) if header.size == theirs.size else b""
    if salted_hash(bytes.fromhex(theirs.salt), content) == theirs.blake3:
        return None
    return f"another WAL file in {target} than in {other}"


def _sizes(member: Member, layout: Layout) -> Sizes:
    prefixes = (layout.packs, layout.manifests, layout.manifest_copies, layout.history, layout.wal)
    return sizes_of(member.store, *prefixes)
