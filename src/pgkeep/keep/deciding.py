"""Which backups are kept, and why. Pure: all that is known comes in, and nothing is done.

The rules must hold against backups that somebody forged or copied. Recorded ends are a writer's
word. So age is judged by when the store got a backup, a backup that claims to have ended after it
was stored counts for nothing but itself, and one that was stored long after its end (a copy in a
mirror, or a forgery dated back) is chosen beside the others, never in their stead. And since a
clock may have been set, the newest is the one that ended last, and also the one stored last,
whatever it says of its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pgkeep.config.keeping import KeepPolicy
from pgkeep.postgres.history import TimelineHistory
from pgkeep.postgres.lsn import Lsn

SLACK = timedelta(days=1)
"""How far the writer's and the store's clock may be apart, and how long a backup waits for WAL."""


class Candidate(NamedTuple):
    """A backup that exists. ``stored`` is the store's clock when its manifest was created; ``held``
    why it is held, or None."""

    id: str
    timeline: int
    start_lsn: Lsn
    stop_lsn: Lsn
    ended: datetime
    stored: datetime
    is_good: bool
    held: str | None = None

    @property
    def is_plausible(self) -> bool:
        return self.ended <= self.stored + SLACK

    @property
    def is_prompt(self) -> bool:
        return abs(self.stored - self.ended) <= SLACK

    @property
    def since(self) -> datetime:
        """From when on it certainly was there."""
        return max(self.ended, self.stored) if self.is_plausible else self.stored


class Decision(NamedTuple):
    """``why`` are reasons as phrases. ``is_base``: WAL is kept from its start on."""

    backup: str
    is_kept: bool
    is_base: bool
    why: tuple[str, ...]


def decide(
    candidates: Sequence[Candidate],
    policy: KeepPolicy,
    *,
    now: datetime,
    timelines: Iterable[TimelineHistory],
    superseded: bool = False,
) -> list[Decision]:
    """A decision for each candidate, in their order.

    ``now`` is the store's clock. ``timelines`` are those that were written to within the window.
    ``superseded``: another system has taken this one's place and covers the window by itself.
    """
    deciding = _Deciding(candidates, policy, now)
    if policy.days:  # else clocks that show whole seconds would keep what ended just now
        deciding.window()
    deciding.periods()
    deciding.holds()
    if not superseded:
        if policy.days:
            deciding.anchors(timelines)
        deciding.newest()
    return [deciding.decision(candidate) for candidate in candidates]


class _Deciding:
    def __init__(self, candidates: Sequence[Candidate], policy: KeepPolicy, now: datetime) -> None:
        self._candidates, self._policy = candidates, policy
        self._begin = now - timedelta(days=policy.days)
        self._good = sorted(
            (one for one in candidates if one.is_good and one.is_plausible),
            key=lambda one: (one.ended, one.id),
            reverse=True,
        )
        self._why: dict[str, list[str]] = {one.id: [] for one in candidates}
        self._bases: set[str] = set()

    def decision(self, candidate: Candidate) -> Decision:
        why = self._why[candidate.id]
        is_base = candidate.id in self._bases
        if why:
            return Decision(candidate.id, True, is_base, tuple(why))
        lost = "older than the window" if self._policy.days else "no rule keeps it"
        state = () if candidate.is_good else ("not good",)
        return Decision(candidate.id, False, False, (lost, *state))

    def window(self) -> None:
        for one in self._candidates:
            if one.since > self._begin:
                self._keep(one, f"within the last {_days(self._policy.days)}", base=True)

    def anchors(self, timelines: Iterable[TimelineHistory]) -> None:
        """What the beginning of the window is restored from, on each timeline that lives in it."""
        for history in timelines:
            on_way = [
                one
                for one in self._good
                if history.contains(one.timeline, one.stop_lsn) and one.since <= self._begin
            ]
            for one in _newest(on_way, 1):
                self._keep(one, f"the window of timeline {int(history.timeline)} begins with it")
                self._bases.add(one.id)

    def newest(self) -> None:
        """As many good ones as are wanted at least; and all, as long as none is good."""
        if not self._good:
            for one in self._candidates:
                self._keep(one, "no backup is good, so nothing is given up")
            return
        count = self._policy.backups
        for one in _newest(self._good, count):
            text = f"of the {count} newest good ones" if count > 1 else "the newest good one"
            self._keep(one, text)
        self._bases.update(one.id for one in _newest(self._good, 1))
        # Of a host whose clock is wrong by years no end is plausible.
        last = max((one for one in self._candidates if one.is_good), key=_stored)
        if not self._why[last.id]:
            self._keep(last, "the good one that was stored last")
        self._bases.add(last.id)

    def periods(self) -> None:
        for name, count, period in (
            ("daily", self._policy.daily, "%Y-%m-%d"),
            ("weekly", self._policy.weekly, "%G-W%V"),
            ("monthly", self._policy.monthly, "%Y-%m"),
            ("yearly", self._policy.yearly, "%Y"),
        ):

            def last_of_each(
                good: Sequence[Candidate], count: int = count, period: str = period
            ) -> list[Candidate]:
                found: dict[str, Candidate] = {}
                for one in good:
                    found.setdefault(f"{one.ended.astimezone(UTC):{period}}", one)
                return list(found.values())[:count]

            for one in self._chosen(last_of_each):
                self._keep(one, f"{name}, {one.ended.astimezone(UTC):{period}}")

    def holds(self) -> None:
        for one in self._candidates:
            if one.held is not None:
                self._keep(one, f"held: {one.held}" if one.held else "held")

    def _chosen(
        self, choose: Callable[[Sequence[Candidate]], Sequence[Candidate]]
    ) -> list[Candidate]:
        """What is chosen of all, and of those alone that were stored as soon as they ended."""
        prompt = [one for one in self._good if one.is_prompt]
        chosen = (*choose(self._good), *choose(prompt))
        return list({one.id: one for one in chosen}.values())

    def _keep(self, candidate: Candidate, why: str, *, base: bool = False) -> None:
        self._why[candidate.id].append(why)
        if base and candidate.is_good:
            self._bases.add(candidate.id)


def _newest(good: Sequence[Candidate], count: int) -> list[Candidate]:
    """Of candidates by their ends, newest first: those that ended last, of all and of the prompt
    ones, and the prompt ones that were stored last."""
    prompt = [one for one in good if one.is_prompt]
    stored = sorted(prompt, key=_stored, reverse=True)
    chosen = (*good[:count], *prompt[:count], *stored[:count])
    return list({one.id: one for one in chosen}.values())


def _stored(one: Candidate) -> tuple[datetime, str]:
    return one.stored, one.id


def _days(days: int) -> str:
    return "day" if days == 1 else f"{days} days"
