"""What an interrupted backup leaves for the next one to go on from (format, section 7).

Now and then a partial manifest is published: the files that were read to their end, with their
maps, as far as every pack that those name is stored. It is numbered under its attempt, the newest
wins, and it serves as a parent for a week. The local hash cache is saved at the same moment.
"""

from __future__ import annotations

import time
from dataclasses import replace

from pgkeep.backup.attempt import Attempt
from pgkeep.backup.hash_cache import HashWriter
from pgkeep.backup.mapping import Block, MapCollector
from pgkeep.backup.packing import PackStream
from pgkeep.backup.parents import Parents
from pgkeep.errors import StoreError
from pgkeep.repository.layout import numbered
from pgkeep.repository.manifest import Head, ManifestBuilder
from pgkeep.repository.map_rows import PackKey
from pgkeep.repository.pack import PackInfo

_COST = 20


class PartialManifests:
    """Publishes them while a backup runs; used by the thread that waits for the workers.

    ``seconds`` is the least time between two; one that took long waits longer for the next.
    """

    def __init__(
        self,
        attempt: Attempt,
        stream: PackStream,
        collector: MapCollector,
        *,
        parents: Parents,
        cache: HashWriter,
        head: Head,
    ) -> None:
        self._attempt, self._stream, self._collector = attempt, stream, collector
        self._parents, self._cache = parents, cache
        self._head = replace(head, partial=True)
        self._manifest = ManifestBuilder()
        self._waiting: list[Block] = []
        self._written: set[PackKey] = set()
        self._next = time.monotonic() + attempt.options.partial_seconds
        self._number = 0

    def publish_when_due(self) -> None:
        """Publish one if it is time. That a store does not take it is said, and harms nothing."""
        if time.monotonic() >= self._next:
            began = time.monotonic()
            try:
                self.publish()
            except StoreError as error:
                self._attempt.progress.note(f"no partial manifest could be stored: {error}")
            spent = time.monotonic() - began
            self._next = time.monotonic() + max(
                self._attempt.options.partial_seconds, _COST * spent
            )

    def publish(self) -> None:
        """Publish what is certain by now, unless nothing new is."""
        self._waiting += self._collector.take_blocks()
        stored = {(pack.attempt, pack.number): pack for pack in self._stream.stored_now()}
        certain, self._waiting = _divide(self._waiting, self._attempt.id, stored)
        if not certain:
            return
        for block in certain:
            self._manifest.add_files([file.row(self._manifest) for file in block.files])
            packs = set(block.packs)
            for file in block.files:
                packs.add(file.place.pack)
                if file.place.attempt != self._attempt.id:
                    packs |= self._parents.usage[file.source.path].packs
            self._add_packs(packs, stored)
        self._cache.save()
        self._describe()
        self._number += 1
        files, size, failed = self._manifest.totals()
        head = replace(
            self._head,
            files=files,
            database_bytes=size,
            failed_pages=failed,
            stored_bytes=self._manifest.stored_bytes,
        )
        key = numbered(f"{self._attempt.layout.partials}{self._attempt.id}/", self._number)
        data = self._manifest.build(self._attempt.repository.keyring, head)
        # The session is looked after by the same thread: a store that is away is not waited for.
        self._attempt.repository.store.impatient().put(key, data, if_absent=True)

    def close(self) -> None:
        self._manifest.close()

    def _add_packs(self, packs: set[PackKey], stored: dict[PackKey, PackInfo]) -> None:
        fresh = packs - self._written
        self._written |= fresh
        own = [stored[key] for key in fresh if key in stored]
        others = [key for key in fresh if key not in stored]
        for info in (*own, *self._parents.pack_infos(others)):
            self._manifest.add_pack(info)

    def _describe(self) -> None:
        key = self._attempt.hash_key
        self._manifest.add_fact("hash", {"kind": key.kind, "shown": key.shown.hex()})
        self._manifest.add_fact("boot", self._attempt.boot)


def _divide(
    blocks: list[Block], attempt: str, stored: dict[PackKey, PackInfo]
) -> tuple[list[Block], list[Block]]:
    """The blocks of which everything is stored, and the others."""
    certain: list[Block] = []
    waiting: list[Block] = []
    for block in blocks:
        own = {pack for pack in block.packs if pack[0] == attempt}
        (certain if own <= stored.keys() else waiting).append(block)
    return certain, waiting
