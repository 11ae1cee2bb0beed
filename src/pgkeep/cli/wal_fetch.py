"""``wal-fetch %f %p``: what is done in which order, and for how long it is tried.

On a standby the server asks again for ever, so nothing is worth waiting for there: retries end, and
a store that does not answer at all is left, before five seconds are over (likewise at the end of
recovery, see ``may_be_denied``). Only a transfer that has begun may take as long as its size needs.

The process that prefetches is this very program, called again with ``--prefetch``. It always
exits with 0: where the server is process 1 of a container it inherits our children, and takes any
other end of an unknown child for the crash of one of its own.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

from pgkeep.archive.cluster import (
    find_data_directory,
    is_recovering,
    may_be_denied,
    read_cluster,
)
from pgkeep.archive.source import WalSource, parsed_name
from pgkeep.cli.wal_session import (
    ask_ahead,
    open_several_to_read,
    open_store_of,
    open_to_read,
    read_settings,
    say,
    state_of,
)
from pgkeep.errors import NoRepository, PgkeepError, UsageError
from pgkeep.postgres.wal_name import WalKind

if TYPE_CHECKING:
    from pgkeep.archive.fetch import FetchSource
    from pgkeep.archive.prefetch import Spool
    from pgkeep.cli.wal import Options
    from pgkeep.repository.wal_plan import WalPlan

RETRY_SECONDS = 300.0
# What may be a mount that is not there yet, or a copy that is just being brought back.
_SHORTER_RETRY_SECONDS = 60.0
_SOON_RETRY_SECONDS = 1.0
_SOON_SECONDS = 4.7
_SOON_BYTES_A_SECOND = 4 << 20
_LEAVE_SECONDS = 10.0


def fetch(options: Options) -> None:
    """Put the file in its place, or raise; the exit code is told by the error."""
    run = _Fetch(options)
    if options.has("prefetch"):
        run.fill_spool()
    else:
        run.run()


class _Fetch:
    """One run: what all its steps need."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._name, self._target = options.files
        self._soon = may_be_denied("", self._name)
        watched = self._soon and not options.has("prefetch")
        code = int(options.value("absent-exit") or 1)
        self._watchdog = _Watchdog(options.started, code=code) if watched else None
        self._settings = read_settings(options)
        pgdata = find_data_directory(self._target, configured=self._settings.pgdata)
        self._cluster = read_cluster(pgdata)
        self._kind = parsed_name(self._name).kind

    def run(self) -> None:
        """Serve the file from the spool or from the store."""
        from pgkeep.repository.wal_plan import WalPlan, check_may_be_given

        text = self._options.value("plan")
        plan = WalPlan.parse(text) if text is not None else None
        check_may_be_given(self._name, plan)
        spool = self._spool() if self._kind is WalKind.SEGMENT else None
        if spool is not None and self._from_spool(spool):
            say(self._options, f"{self._name} was prefetched")
            return
        self._from_store(plan)
        say(self._options, f"{self._name} was fetched")
        if spool is not None:
            self._prefetch_next(spool)

    def _from_store(self, plan: WalPlan | None) -> None:
        from pgkeep.archive.fetch import PlannedWalMissing, fetch_file
        from pgkeep.archive.patience import Patience

        on_found = self._watchdog.expect if self._watchdog else None

        def attempt() -> int:
            return fetch_file(
                self._name, self._target, self._source(), plan=plan, on_found=on_found
            )

        shorter = {PlannedWalMissing: _SHORTER_RETRY_SECONDS, NoRepository: _SHORTER_RETRY_SECONDS}
        Patience(self._retry_seconds(), started=self._options.started, passing=shorter).run(attempt)

    def _retry_seconds(self) -> float:
        text = self._options.value("retry-seconds")
        if text is not None and not text.isdecimal():
            raise UsageError(
                f"--retry-seconds {text!r} is not a number of seconds.",
                remedy=f"Leave it out for {RETRY_SECONDS:.0f}, or write for example 30.",
            )
        seconds = RETRY_SECONDS if text is None else float(text)
        return min(seconds, _SOON_RETRY_SECONDS) if self._soon else seconds

    def _source(self) -> FetchSource:
        from pgkeep.archive.fetch import FetchSource
        from pgkeep.repository.layout import Layout

        settings, cluster = self._settings, self._cluster
        state = state_of(settings, cluster.pgdata)
        if settings.mirrors:
            repository = open_several_to_read(settings, state)
        else:
            store = ask_ahead(open_store_of(settings), settings)
            repository = open_to_read(store, settings, state)
        return FetchSource(
            repository,
            cluster,
            Layout(settings.cluster, cluster.system_identifier),
            any_magic=settings.force_version is not None,
        )

    # -- the spool ---------------------------------------------------------------------------

    def _spool(self) -> Spool | None:
        """None where there can be none: prefetching is about speed only."""
        from pgkeep.archive.prefetch import Spool

        try:
            return Spool.of(
                state_of(self._settings, self._cluster.pgdata),
                pgdata=self._cluster.pgdata,
                url=self._settings.repo or "",
                cluster=self._settings.cluster,
                system_identifier=self._cluster.system_identifier,
            )
        except (PgkeepError, OSError):
            return None

    def _from_spool(self, spool: Spool) -> bool:
        from pgkeep.archive.landing import land_file

        try:
            found = spool.take(self._name)
            if found is None:
                return False
            self._check(found)
            spool.note_position(self._name)
            land_file(found, self._target)
        except (PgkeepError, OSError):
            return False
        return True

    def _check(self, path: str) -> None:
        with WalSource(path) as segment:
            segment.check(
                system_identifier=self._cluster.system_identifier,
                segment_size=self._cluster.segment_size,
                any_magic=self._settings.force_version is not None,
            )

    def _prefetch_next(self, spool: Spool) -> None:
        if not is_recovering(self._cluster.pgdata):
            return
        try:
            spool.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            spool.note_position(self._name)
            if not spool.is_served():
                _start_prefetcher()
        except Exception as error:  # the file that was asked for is in place, whatever this is
            say(self._options, f"nothing is prefetched: {error}")

    def fill_spool(self) -> None:
        """The life of the process that prefetches."""
        from pgkeep.archive.fetch import fetch_file
        from pgkeep.archive.prefetch import fill

        os.chdir("/")
        os.closerange(3, 1 << 20)
        spool = self._spool()
        if spool is None or not spool.open_to_fill():
            return
        pgdata = self._cluster.pgdata
        _leave_after(pgdata)
        try:
            source = self._source()
            fill(
                spool,
                lambda name, path: fetch_file(name, path, source),
                segment_size=self._cluster.segment_size,
                recovering=lambda: is_recovering(pgdata),
            )
        finally:
            spool.close()


def _start_prefetcher() -> None:
    """Call this program again, apart from everything that the server may wait for or signal."""
    null = [(os.POSIX_SPAWN_OPEN, handle, os.devnull, os.O_RDWR, 0) for handle in (0, 1, 2)]
    os.posix_spawn(
        sys.executable,
        [sys.executable, *sys.orig_argv[1:], "--prefetch"],
        os.environ,
        file_actions=null,
        setsid=True,
    )


def _leave_after(pgdata: str) -> None:
    """End this process some seconds after recovery has ended, whatever a store keeps it waiting."""

    def watch() -> None:
        while is_recovering(pgdata):
            time.sleep(1)
        time.sleep(_LEAVE_SECONDS)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()


class _Watchdog:
    """Ends this process with "absent" when a store does not answer in time, where it does no harm.

    ``code`` is the exit code that says so.
    """

    def __init__(self, started: float, *, code: int) -> None:
        self._until, self._code = started + _SOON_SECONDS, code
        threading.Thread(target=self._watch, daemon=True).start()

    def expect(self, size_bytes: int) -> None:
        """The store has answered, and this much is to be transferred."""
        needed = size_bytes / _SOON_BYTES_A_SECOND
        self._until = max(self._until, time.monotonic() + needed)

    def _watch(self) -> None:
        while (left := self._until - time.monotonic()) > 0:
            time.sleep(left)
        os.write(2, b"wal-fetch: The store does not answer. The server will ask again.\n")
        os._exit(self._code)
