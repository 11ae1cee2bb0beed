"""What goes wrong after a dump was made takes nothing back, and says that it was made."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pgkeep.cli import after_dump, members
from pgkeep.errors import StoreUnavailable
from pgkeep.progress import Progress
from tests.dump.made_up import CONTENTS


def away(*_: object, **__: object) -> None:
    raise StoreUnavailable("The store does not answer.")


def test_a_repository_that_went_away_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    context: Any = SimpleNamespace(members=None, settings=None)
    progress = cast("Progress", SimpleNamespace(warn=said.append))
    monkeypatch.setattr(after_dump, "open_each", away)
    after_dump.expire_after_dump(context, CONTENTS, progress)
    assert len(said) == 1
    assert said[0].startswith("Dumps that the policy does not keep were not deleted. The store")
    one = SimpleNamespace(object_lock_days=3)
    monkeypatch.setattr(members, "settings_by_name", lambda _: {"main": one})
    with pytest.raises(StoreUnavailable, match="was made, and is not locked"):
        after_dump.lock_it(context, CONTENTS)
