"""Sessions for many threads, and the one thread in which the library lives.

pgkeep is threads, asyncssh is coroutines. So one event loop runs in a thread of its own for each
store, and whoever calls the store waits for what it does there. A call has one session to itself
and gives it back; sessions are opened as they are needed, one at a time (servers turn away who
knocks too often at once), up to a number that no ordinary server minds.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from pgkeep.errors import StoreUnavailable
from pgkeep.storage._sftp_problems import ends_session
from pgkeep.storage._sftp_session import Session

# Threads beyond that wait for each other. OpenSSH's MaxStartups begins to refuse at 10.
MOST_SESSIONS = 8

_Result = TypeVar("_Result")
_Open = Callable[[], Coroutine[Any, Any, Session]]


class SessionPool:
    """``open_one`` opens a session; it raises what a caller of the store shall see."""

    def __init__(self, open_one: _Open, *, server: str) -> None:
        self._open_one = open_one
        self._server = server
        self._thread = _LoopThread()
        self._changed = threading.Condition()
        self._idle: list[Session] = []
        self._count = 0
        self._most = MOST_SESSIONS
        self._opening = False
        self._closed = False

    def run(self, work: Callable[[Session], Coroutine[Any, Any, _Result]]) -> _Result:
        """Do ``work`` in a session. Raises what it raises; a session that this ends is dropped."""
        session = self._take()
        usable = False
        try:
            result = self._thread.run(work(session))
            usable = True
            return result
        except CancelledError:
            raise self._was_closed() from None
        except Exception as error:
            usable = not ends_session(error)
            raise
        finally:
            self._give_back(session, usable=usable)

    def close(self) -> None:
        """End all sessions and the thread; closing twice is fine."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            sessions, self._idle = self._idle, []
            self._changed.notify_all()
        for session in sessions:
            self._thread.run(session.close())
        self._thread.close()

    def _take(self) -> Session:
        while True:
            with self._changed:
                session = self._wait_for_one()
            if session is not None:
                return session
            try:
                return self._open()
            except StoreUnavailable:
                # Servers and providers limit connections. Those that we have are enough.
                if not self._others_serve():
                    raise

    def _wait_for_one(self) -> Session | None:
        """A session that is free; None if the caller shall open one."""
        while True:
            if self._closed:
                raise self._was_closed()
            while self._idle:
                session = self._idle.pop()
                if session.is_open:
                    return session
                self._count -= 1
            if not self._opening and self._count < self._most:
                self._opening = True
                self._count += 1
                return None
            self._changed.wait()

    def _open(self) -> Session:
        opened = False
        try:
            session = self._thread.run(self._open_one())
            opened = True
            return session
        finally:
            with self._changed:
                self._opening = False
                if not opened:
                    self._count -= 1
                elif self._count == 1:
                    self._most = MOST_SESSIONS
                self._changed.notify_all()

    def _others_serve(self) -> bool:
        with self._changed:
            self._most = max(1, self._count)
            return self._count > 0

    def _give_back(self, session: Session, *, usable: bool) -> None:
        with self._changed:
            usable = usable and session.is_open and not self._closed
            if usable:
                self._idle.append(session)
            else:
                self._count -= 1
            self._changed.notify()
        if not usable:
            self._thread.call(session.abort)

    def _was_closed(self) -> StoreUnavailable:
        return StoreUnavailable(f"The store on {self._server} was closed while it was in use.")


class _LoopThread:
    """An event loop in a thread of its own, started when it is needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do ``work`` there and wait for it; it is cancelled when the waiting is broken off."""
        future = asyncio.run_coroutine_threadsafe(work, self._started())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def call(self, action: Callable[[], object]) -> None:
        """Do ``action`` there, some time."""
        with self._lock:
            if self._loop is not None:
                self._loop.call_soon_threadsafe(action)

    def close(self) -> None:
        """End the thread; what is still under way is cancelled."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None or self._thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # Every failure reaches its caller; what the library's tasks have beside is an echo.
                self._loop.set_exception_handler(lambda *_: None)
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop,), name="pgkeep-sftp", daemon=True
                )
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
