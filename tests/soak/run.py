"""A soak of so many seconds, or steps; a failure says how to have it again."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.installations import Installation
from tests.soak.world import World


def soak(
    installation: Installation,
    seed: int,
    *,
    seconds: float | None = None,
    steps: int | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Go on until the time is over, or so many steps are done; returns how many there were.

    Raises AssertionError with the seed and the step, from whatever went wrong.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    say(f"seed {seed}, {installation}")
    world = World(installation, seed, say=say)
    try:
        world.begin()
        while (deadline is None or time.monotonic() < deadline) and world.steps != steps:
            world.step()
        world.finish()
    except Exception as error:
        again = f"python -m tests.soak --seed {seed} --steps {world.steps}"
        raise AssertionError(
            f"It failed in step {world.steps} (the last restore: {world.doing}). "
            f"Again: {again} --major {installation.major}"
        ) from error
    finally:
        world.close()
    say(f"{world.steps} steps, all well")
    return world.steps
