"""Whatever happens, every moment that was recorded can be gone back to."""

from __future__ import annotations

import pytest

from tests.installations import Installation
from tests.soak.run import soak

SECONDS, SEED = 12.0, 18001


@pytest.mark.end_to_end
@pytest.mark.majors(18)
def test_whatever_happens(pg_installation: Installation) -> None:
    assert soak(pg_installation, SEED, seconds=SECONDS) > 3
