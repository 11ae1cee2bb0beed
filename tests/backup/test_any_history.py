"""Whatever happens between backups, each restores to what there was, and stays cheap to read
(invariants 11 and 30)."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from pgkeep.backup import copy, stretches
from pgkeep.backup.layering import MOST_NAMED
from pgkeep.backup.retiring import most_packs
from tests.backup.chain import BrokenOff, Chain, reading_cost, restored
from tests.backup.scratch import PAGE, RUN


@pytest.mark.parametrize("seed", range(6))
def test_any_history_restores_and_stays_cheap_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    chance = random.Random(seed)
    if seed % 2:  # as with large files: threads share them, and one look at them is enough
        monkeypatch.setattr(stretches, "SPLIT_BYTES", 2 * RUN)
        monkeypatch.setattr(copy, "LAYERED_BYTES", 0)
    chain = Chain(
        tmp_path, sealed=seed % 2 == 0, checksums=False, jobs=1 + seed % 3, settled=seed % 2 == 1
    )
    contents: list[dict[str, bytes]] = []
    for number in range(4):
        chain.write(f"base/5/{number}", os.urandom(chance.randrange(6 * RUN)))
    for _ in range(25):
        contents.append(chain.content())
        backup = chain.run(full=chance.random() < 0.05, use_cache=chance.random() < 0.8)
        held, live, packs = reading_cost(backup)
        assert held <= MOST_NAMED * live
        assert len(packs) <= most_packs(0) + 8
        assert restored(backup) == contents[-1]
        if chance.random() < 0.2:
            with pytest.raises(BrokenOff):
                chain.run(break_off_after=chance.randrange(1, 4))
        alter(chain, chance)
    for name, content in zip(chain.made, contents, strict=True):
        assert restored(chain.read(name)) == content


def alter(chain: Chain, chance: random.Random) -> None:
    """Anything that may happen between two backups."""
    for _ in range(chance.randrange(4)):
        path = chain.data / f"base/5/{chance.randrange(6)}"
        size = path.stat().st_size if path.exists() else 0
        what = chance.choice(["pages", "pages", "most", "grow", "cut", "zero", "remove"])
        if not size or what == "grow":
            with path.open("ab") as file:
                file.write(os.urandom(chance.randrange(2 * RUN)))
        elif what in ("pages", "most"):
            count = -(-size // PAGE)
            share = chance.uniform(0.5, 1) if what == "most" else chance.uniform(0, 0.2)
            with path.open("r+b") as file:
                for page in chance.sample(range(count), int(count * share)):
                    file.seek(page * PAGE)
                    file.write(os.urandom(min(PAGE, size - page * PAGE)))
        elif what == "cut":
            os.truncate(path, chance.randrange(size))
        elif what == "zero":
            with path.open("r+b") as file:
                start = chance.randrange(size)
                file.seek(start)
                file.write(bytes(chance.randrange(size - start)))
        else:
            path.unlink()
