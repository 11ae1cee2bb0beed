"""Whatever happens in whatever order, nothing that is kept is ever lost.

The model knows only what was made honestly, and asks little: what is younger than the window, what
the window begins with, and the newest, must be there and restorable. It does not know the rules.
"""

from __future__ import annotations

import os
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pgkeep.config.keeping import KeepPolicy
from pgkeep.errors import NoSuchBackup, PgkeepError
from pgkeep.keep.by_hand import delete, hold, release, undelete
from pgkeep.repository.pin_life import PIN_LIFE
from pgkeep.repository.trash import read_trash
from pgkeep.storage.faulty import Failure, Fault, FaultyStore
from tests.keep.world import DAY, Made, Running, World
from tests.repository.kit import BY, LAYOUT

HOURS = st.integers(1, 200).map(lambda hours: timedelta(hours=hours))
POLICIES = st.builds(
    KeepPolicy,
    days=st.integers(0, 9),
    backups=st.integers(1, 3),
    daily=st.integers(0, 4),
    weekly=st.integers(0, 2),
    monthly=st.integers(0, 2),
)


class Histories(RuleBasedStateMachine):
    """A user, his server, an attacker, and crashes."""

    @initialize(policy=POLICIES, grace=st.sampled_from([0, 7200, 86400]))
    def begin(self, policy: KeepPolicy, grace: int) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.world = World(Path(self._folder.name))
        self.policy, self.grace = policy, grace
        self.running: list[Running] = []
        self.held: set[str] = set()
        self.by_hand: set[str] = set()
        self.readers: list[tuple[str, Made, datetime]] = []
        self.world.archive(2)

    def teardown(self) -> None:
        if hasattr(self, "_folder"):
            self._folder.cleanup()

    # -- what happens -----------------------------------------------------------------------------

    @rule(length=HOURS)
    def time_passes(self, length: timedelta) -> None:
        self.world.wait(length)

    @rule(count=st.integers(1, 5))
    def wal_arrives(self, count: int) -> None:
        self.world.archive(count)

    @rule()
    def a_standby_is_promoted(self) -> None:
        if len(self.world.forks) < 3 and not self.running:
            self.world.promote()

    @rule(skew=st.integers(-20, 20))
    def the_hosts_clock_is_set(self, skew: int) -> None:
        self.world.skew = timedelta(hours=skew)

    @rule(days=st.integers(1, 12), hours=st.integers(0, 5), expire=st.booleans())
    def days_pass_with_a_backup_each(self, days: int, hours: int, expire: bool) -> None:
        for _ in range(days):
            self.world.wait(timedelta(hours=20 + hours))
            self.world.archive()
            self.world.backup()
            if expire:
                self.it_is_expired()

    @rule(damaged=st.booleans())
    def a_backup_is_made(self, damaged: bool) -> None:
        self.world.wait(timedelta(minutes=10))
        self.world.backup(failed_pages=int(damaged))

    @precondition(lambda self: len(self.running) < 2)
    @rule(reuse=st.sampled_from([0.0, 0.5, 1.0]))
    def a_backup_begins(self, reuse: float) -> None:
        running = self.world.begin(reuse=reuse)
        self.world.put_packs(running)
        self.running.append(running)

    @precondition(lambda self: self.running)
    @rule()
    def the_backup_ends(self) -> None:
        self.world.finish(self.running.pop(0))

    @precondition(lambda self: self.running)
    @rule()
    def the_backup_dies(self) -> None:
        self.running.pop()

    @rule()
    def a_backup_is_interrupted(self) -> None:
        self.world.interrupted()

    @rule(days=st.integers(-400, 400))
    def somebody_forges_a_backup(self, days: int) -> None:
        self.world.backup(ended=self.world.now + days * DAY)

    @precondition(lambda self: self.world.listed_names())
    @rule(data=st.data())
    def a_restore_begins(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.listed_names())))
        made = self.world.made[name]
        self.readers.append((self.world.restore_begins(made), made, self.world.now))

    @precondition(lambda self: self.world.listed_names())
    @rule(data=st.data())
    def a_backup_is_held(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.listed_names())))
        hold(self.world.repository, LAYOUT, [name], reason="", by=BY)
        self.held.add(name)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def a_hold_ends(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.held)))
        release(self.world.repository, LAYOUT, [name], by=BY)
        self.held.remove(name)

    @precondition(lambda self: self.world.listed_names())
    @rule(data=st.data())
    def a_backup_is_deleted(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.listed_names())))
        try:
            delete(self.world.repository, LAYOUT, [name], reason="by hand", by=BY)
        except PgkeepError:
            good = [n for n in self.world.listed_names() if self.world.made[n].is_good]
            assert name in self.held or good == [name]
        else:
            self.by_hand.add(name)

    @rule(data=st.data())
    def a_backup_comes_back(self, data: st.DataObject) -> None:
        trash = read_trash(self.world.store, LAYOUT)
        names = sorted(name for name in trash.states if trash.is_in_trash(name))
        if not names:
            return
        name = data.draw(st.sampled_from(names))
        try:
            undelete(self.world.repository, LAYOUT, [name], by=BY)
        except NoSuchBackup:
            assert not self.world.store.exists(LAYOUT.manifest(name))
        else:
            assert name in self.world.listed_names()

    @rule()
    def it_is_expired(self) -> None:
        self.world.expire(self.policy, grace_seconds=self.grace)

    @rule(policy=POLICIES)
    def the_policy_is_changed(self, policy: KeepPolicy) -> None:
        self.policy = policy

    @rule(
        call=st.integers(0, 60),
        failure=st.sampled_from([Failure.UNAVAILABLE, Failure.LOST_ANSWER, Failure.BROKEN]),
    )
    def expiry_dies_in_the_middle(self, call: int, failure: Failure) -> None:
        faulty = FaultyStore(self.world.store, [Fault(failure, skip=call, times=1000)])
        try:
            self.world.expire(self.policy, grace_seconds=self.grace, store=faulty)
        except PgkeepError:
            return

    # -- what must hold ---------------------------------------------------------------------------

    @invariant()
    def what_is_listed_restores(self) -> None:
        if hasattr(self, "world"):
            for backup in self.world.listed():
                self.world.assert_restorable(backup)

    @invariant()
    def what_is_held_is_there(self) -> None:
        if hasattr(self, "world"):
            assert self.held <= self.world.listed_names()

    @invariant()
    def a_reader_finds_his_packs(self) -> None:
        for _, made, since in getattr(self, "readers", ()):
            if self.world.now - since < PIN_LIFE:
                assert all(self.world.store.exists(key) for key in made.packs)

    @rule()
    def expiry_runs_twice(self) -> None:
        self.it_is_expired()
        self.world.wait(timedelta(minutes=50))
        self.it_is_expired()

    @rule()
    def what_the_policy_wants_is_there(self) -> None:
        """Judged by an expiry, with a model that knows no rules but the promise."""
        world = self.world
        given_up = self.ever_given_up()
        reaching = {name for name in world.made if self.reaches(world.made[name])}
        world.expire(self.policy, grace_seconds=self.grace)
        honest = [one for one in world.made.values() if one.honest and one.id not in given_up]
        begin = world.now - self.policy.days * DAY
        wanted = [one for one in honest if one.stored > begin]
        good = [one for one in honest if one.is_good]
        before = [one for one in good if one.stored <= begin]
        wanted += [max(some, key=lambda one: one.stored) for some in (good, before) if some]
        listed = world.listed_names()
        for one in wanted:
            assert one.id in listed
            # Of WAL that a shorter policy gave up nothing can come back.
            if one.is_good and one.id in reaching:
                world.assert_reaches_the_end(one)

    def reaches(self, made: Made) -> bool:
        try:
            self.world.assert_reaches_the_end(made)
        except AssertionError:
            return False
        return True

    def ever_given_up(self) -> set[str]:
        """What an earlier, shorter policy gave up, or somebody by hand."""
        trash = read_trash(self.world.store, LAYOUT)
        return {name for name in trash.states if trash.is_out(name)} | {
            name for name in self.world.made if not self.world.store.exists(LAYOUT.manifest(name))
        }


Histories.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=30,
    deadline=None,
    # New histories are for whoever works on this: what CI finds must be about the change.
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestHistories = Histories.TestCase
