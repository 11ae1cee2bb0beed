"""Retries end when they should, and only what may pass is tried again."""

from __future__ import annotations

import pytest

from pgkeep.archive.patience import Patience
from pgkeep.errors import NoRepository, PgkeepError, StoreDenied, StoreUnavailable


class World:
    """A clock that moves when somebody waits, and an action that fails for a while."""

    def __init__(self, error: PgkeepError, *, until: float = float("inf")) -> None:
        self.now = 100.0
        self.tries: list[float] = []
        self._error = error
        self._until = until

    def act(self) -> str:
        self.tries.append(self.now)
        if self.now < self._until:
            raise self._error
        return "done"

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def patience(self, seconds: float, **options: object) -> Patience:
        return Patience(seconds, clock=lambda: self.now, pause=self.pause, **options)  # type: ignore[arg-type]


def test_what_may_pass_is_tried_again_until_it_works() -> None:
    # Pauses double and each is cut by up to a half: five of them end between 3.9 s and 7.75 s,
    # whatever was drawn, so one try always falls between the end of the fault and that of patience.
    world = World(StoreUnavailable("down"), until=103.8)
    assert world.patience(10).run(world.act) == "done"
    assert len(world.tries) == 6


def test_it_ends_with_the_last_error_when_the_time_is_over() -> None:
    world = World(StoreUnavailable("down"))
    with pytest.raises(StoreUnavailable):
        world.patience(10).run(world.act)
    assert 110 <= world.now < 110.2
    assert world.tries[-1] < 110


def test_time_before_the_first_try_counts() -> None:
    world = World(StoreUnavailable("down"))
    with pytest.raises(StoreUnavailable):
        world.patience(10, started=95.0).run(world.act)
    assert world.now < 105.2


def test_what_cannot_pass_is_told_at_once() -> None:
    world = World(StoreDenied("no"))
    with pytest.raises(StoreDenied):
        world.patience(10).run(world.act)
    assert world.tries == [100.0]


def test_an_error_may_be_worth_less_than_the_whole_time() -> None:
    world = World(NoRepository("none"))
    with pytest.raises(NoRepository):
        world.patience(300, passing={NoRepository: 60}).run(world.act)
    assert 160 <= world.now < 160.2


def test_it_gives_up_in_the_middle_of_a_pause() -> None:
    world = World(StoreUnavailable("down"))
    with pytest.raises(StoreUnavailable):
        world.patience(300, give_up=lambda: world.now > 103).run(world.act)
    assert world.now < 103.3
