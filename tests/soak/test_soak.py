"""Whatever happens, every moment that was recorded can be gone back to."""

from __future__ import annotations

import pytest

from tests.installations import Installation
from tests.soak.run import soak

SECONDS = 25.0
SEEDS = {15: 15001, 18: 18001}


@pytest.mark.end_to_end
def test_whatever_happens(pg_installation: Installation) -> None:
    seed = SEEDS.get(pg_installation.major, pg_installation.major)
    assert soak(pg_installation, seed, seconds=SECONDS) > 3
