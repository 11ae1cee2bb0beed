"""``wal-push`` to several repositories at once: done when as many have the file as shall have it.

Each repository has a thread and retries of its own; the file is read and sealed once. When enough
have it, the others are not tried again, and are waited for a few seconds of their first attempt.
One that was found away is not even asked for a minute, unless it is needed: else every segment
would wait for it, and the server's disk would fill. What it lacks it gets by copying.

Another content under the same name is an error wherever it is found.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from pgkeep.archive.patience import Patience
from pgkeep.archive.push import (
    Pushed,
    PushTarget,
    push_history_first,
    read_content,
    seal_content,
    store_sealed,
)
from pgkeep.cli.away_notes import AwayNotes
from pgkeep.cli.wal_session import ask_ahead, open_store_of, open_to_write
from pgkeep.config.mirrors import MAIN, copies_wanted
from pgkeep.errors import NoRepository, PgkeepError, StoreError, TooFewCopies
from pgkeep.mirror.member import Member, check_same_identity

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgkeep.archive.ahead import AheadRecords
    from pgkeep.archive.source import WalSource
    from pgkeep.config import Settings
    from pgkeep.repository.identity import Repository

_LOOK_SECONDS = 0.1
_SLOW_SECONDS = 2.0
_LINGER_SECONDS = 3.0
"""How long the others are waited for once enough have it: a store that hangs says nothing."""


class Everywhere:
    """One run. ``make_target`` joins an open repository with the cluster, ``histories`` are what
    is known to be stored in one, by its name.

    ``targets`` are the repositories that have the file when :meth:`push` returns. A thread that
    comes later with another one changes nothing any more.
    """

    def __init__(
        self,
        settings: Settings,
        state: Path,
        *,
        make_target: Callable[[Repository], PushTarget],
        histories: Callable[[str, Repository], AheadRecords],
        started: float,
        seconds: float,
        give_up: Callable[[], bool],
    ) -> None:
        self._named = {MAIN: settings, **settings.mirrors}
        self._settings, self._state = settings, state
        self._copies = copies_wanted(settings)
        self._make_target, self._histories = make_target, histories
        self._started, self._seconds, self._give_up = started, seconds, give_up
        self._notes = AwayNotes(state / "away")
        self._changed = threading.Condition()
        self._sealed: memoryview | None = None
        self._content: memoryview | bytes = b""
        self._first: tuple[Member, Repository] | None = None
        self.targets: dict[str, PushTarget] = {}
        self._done: dict[str, PushTarget] = {}
        self._failed: dict[str, BaseException] = {}
        self._enough_at: float | None = None

    def push(self, source: WalSource) -> None:
        """Make the file durable in enough repositories.

        Raises ``WalConflict`` and its like at once, and ``TooFewCopies``, or the only error there
        is, when the time is over.
        """
        names = self._worth_trying()
        for name in names:
            threading.Thread(target=self._work, args=(name, source), daemon=True).start()
        patience = Patience(self._seconds, started=self._started)
        with self._changed:
            while not self._is_over(names, patience):
                self._changed.wait(_LOOK_SECONDS)
            fatal = [error for error in self._failed.values() if not _is_absence(error)]
            self.targets = dict(self._done)
        # Who refuses at once keeps nobody waiting, and is asked each time.
        is_slow = patience.elapsed >= _SLOW_SECONDS
        for name in names:
            if is_slow or name in self.targets:
                self._notes.note(name, is_away=name not in self.targets)
        if fatal:
            raise fatal[0]
        if len(self.targets) < self._copies:
            raise self._too_few(source)

    def push_ahead(self, source: WalSource) -> Pushed:
        """One more file, into each repository that took the first; enough of them, or it raises."""
        if len(self.targets) < self._copies:
            raise self._too_few(source)
        content, sealed = None, None
        pushed: Pushed | None = None
        for name, target in self.targets.items():
            push_history_first(source, target, self._histories(name, target.repository))
            if content is None or sealed is None:
                content = read_content(source, target)
                sealed = seal_content(source, content, target)
            pushed = store_sealed(source.name.name, content, sealed, target)
        assert pushed is not None
        return pushed

    # -- in a thread for each repository ---------------------------------------------------------

    def _work(self, name: str, source: WalSource) -> None:
        patience = Patience(self._seconds, started=self._started, give_up=self._stops)
        try:
            target = patience.run(lambda: self._attempt(name, source))
        except BaseException as error:
            with self._changed:
                self._failed[name] = error
                self._changed.notify_all()
            return
        with self._changed:
            self._done[name] = target
            self._changed.notify_all()

    def _attempt(self, name: str, source: WalSource) -> PushTarget:
        settings = self._named[name]
        store = ask_ahead(open_store_of(settings), settings, cluster=self._settings.cluster)
        repository = open_to_write(store, self._settings, self._state)
        member = Member(name, store)
        with self._changed:
            if self._first is None:
                self._first = (member, repository)
            known = self._first
        check_same_identity(repository.identity, member, known[1].identity, str(known[0]))
        target = self._make_target(repository)
        push_history_first(source, target, self._histories(name, repository))
        content, sealed = self._bytes(source, target)
        store_sealed(source.name.name, content, sealed, target)
        return target

    def _bytes(
        self, source: WalSource, target: PushTarget
    ) -> tuple[memoryview | bytes, memoryview]:
        """The file's content, and what is stored; made once, by whoever comes first."""
        with self._changed:
            if self._sealed is None:
                self._content = read_content(source, target)
                self._sealed = seal_content(source, self._content, target)
            return self._content, self._sealed

    # -- together --------------------------------------------------------------------------------

    def _worth_trying(self) -> list[str]:
        names = list(self._named)
        near = [name for name in names if not self._notes.is_away(name)]
        return near if len(near) >= self._copies else names

    def _stops(self) -> bool:
        return len(self._done) >= self._copies or self._give_up()

    def _is_over(self, names: list[str], patience: Patience) -> bool:
        if any(not _is_absence(error) for error in self._failed.values()):
            return True
        if len(self._done) + len(self._failed) >= len(names):
            return True
        if len(self._done) < self._copies:
            return False
        self._enough_at = patience.elapsed if self._enough_at is None else self._enough_at
        return patience.elapsed >= min(self._seconds, self._enough_at + _LINGER_SECONDS)

    def _too_few(self, source: WalSource) -> BaseException:
        if not self.targets:
            return next(self._failed[name] for name in self._named if name in self._failed)
        have = [name for name in self._named if name in self.targets]
        reasons = [
            f"{name}: {error.what if isinstance(error, PgkeepError) else error}"
            for name, error in list(self._failed.items())
        ]
        return TooFewCopies(
            f"{source.name.name} is stored in {len(have)} of the {self._copies} repositories that "
            f"shall have it: {', '.join(have)}.",
            why=" ".join(reasons) or None,
            remedy="The server keeps the file and asks again. To archive without the others, set "
            f"copies to {len(have)} (PGKEEP_COPIES).",
            segment=source.name.name,
        )


def _is_absence(error: BaseException) -> bool:
    """Whether one repository was just not to be had, so that others may do."""
    return isinstance(error, StoreError | NoRepository)
