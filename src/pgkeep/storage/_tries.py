"""The attempts of one call of a store that retries."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pgkeep.errors import StoreError, StoreUnavailable
from pgkeep.storage.outage import TELL_AFTER_SECONDS

if TYPE_CHECKING:
    from pgkeep.storage.retry import RetryingStore

_Result = TypeVar("_Result")
_SHORTEST_WAIT_SECONDS = 0.001


class Tries:
    """The attempts of one call, the first of which begins now. At last, ``end`` it."""

    def __init__(self, policy: RetryingStore) -> None:
        self.failures = 0
        self._policy = policy
        self._began = self._attempt_began = policy.now()
        self._is_waiting = False

    def run(self, attempt: Callable[[], _Result]) -> _Result:
        """The attempt's result, as soon as there is an answer. Raises what the store raises."""
        try:
            while True:
                try:
                    result = attempt()
                except StoreUnavailable as error:
                    self.wait_after(error)
                except StoreError:
                    self.answered()
                    raise
                else:
                    self.answered()
                    return result
        finally:
            self.end()

    def wait_after(self, error: StoreUnavailable) -> None:
        """Wait before the next attempt, or raise ``error`` if there shall be none."""
        if not self.wait(error):
            raise self._final(error) from error

    def wait(self, error: StoreUnavailable) -> bool:
        """Wait before the next attempt; False if the time is over or the call cancelled."""
        policy, outages, now = self._policy, self._policy.outages, self._policy.now()
        self.failures += 1
        outages.failed(self._attempt_began)
        deadline = policy.deadline_seconds
        left = min(deadline - (now - self._began), outages.left_seconds(deadline, now=now))
        if left < _SHORTEST_WAIT_SECONDS:
            return False
        if not self._is_waiting:
            self._is_waiting = True
            outages.begin_waiting()
        if now - self._began >= TELL_AFTER_SECONDS:
            outages.waits(error, deadline, since=self._began)
        is_to_go_on = policy.pause(min(left, policy.wait_seconds(self.failures)))
        self._attempt_began = policy.now()
        return is_to_go_on

    def answered(self) -> None:
        """There is an answer."""
        self._policy.outages.answered()
        self._end(is_answered=True)

    def end(self) -> None:
        """The call is over, with or without an answer."""
        self._end(is_answered=False)

    def _end(self, *, is_answered: bool) -> None:
        if self._is_waiting:
            self._is_waiting = False
            self._policy.outages.end_waiting(is_answered=is_answered, now=self._policy.now())

    def _final(self, error: StoreUnavailable) -> StoreUnavailable:
        times = "once" if self.failures == 1 else f"{self.failures} times"
        tried = f"Tried {times} in {self._policy.now() - self._began:.1f} s."
        facts = {**error.facts, "attempts": self.failures}
        return StoreUnavailable(
            error.what,
            why=f"{error.why} {tried}" if error.why else tried,
            remedy=error.remedy,
            **facts,
        )
