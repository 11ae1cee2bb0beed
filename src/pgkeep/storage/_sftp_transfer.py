"""Many bytes to and from one remote file, with many requests in flight.

A request carries at most what the server takes at once (255 KiB with OpenSSH), so a file is
many requests, and a far server is fast only if they do not wait for one another. asyncssh can do
that too, but only from and to one joined buffer, and goes on when a connection is lost
in the middle; here the caller's buffers are sent as they are, the first error ends it all, and
silence does not last for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

from pgkeep.storage._sftp_library import asyncssh

# How long the server may think about one request (an fsync on a busy disk is the longest).
# Whether it is there at all is what keepalive tells, much sooner.
PATIENCE_SECONDS = 300.0

_SENT_AHEAD_BYTES = 4 << 20  # OpenSSH takes 2 MiB before it wants some of it written
_ASKED_AHEAD_BYTES = 8 << 20
_LARGEST_REQUEST_BYTES = 255 << 10

_Result = TypeVar("_Result")


async def patiently(answer: Awaitable[_Result]) -> _Result:
    """Wait for one answer. Raises ``TimeoutError`` when there is none for too long."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await answer


async def all_of(*answers: Coroutine[Any, Any, Any]) -> None:
    """Ask all at once and wait for all; the first error is raised when the last has come.

    A server answers in the order of the requests, so this is how to save a journey, also where
    the second only makes sense after the first.
    """
    results = await patiently(asyncio.gather(*answers, return_exceptions=True))
    for result in results:
        if isinstance(result, BaseException):
            raise result


async def write_all(
    file: asyncssh.SFTPClientFile, views: Sequence[memoryview], *, limit_bytes: int
) -> None:
    """Write the pieces one after the other, from the start of the file."""
    block_bytes = _block(limit_bytes)

    def requests() -> Iterator[Coroutine[Any, Any, object]]:
        offset = 0
        for block in _blocks(views, block_bytes):
            yield file.write(block, offset)
            offset += len(block)

    await _in_flight(requests(), at_once=max(1, _SENT_AHEAD_BYTES // block_bytes))


async def read_span(
    file: asyncssh.SFTPClientFile, start: int, length: int, *, limit_bytes: int
) -> bytes:
    """``length`` bytes from ``start``; fewer only where the file ends."""
    block_bytes = _block(limit_bytes)
    starts = range(start, start + length, block_bytes)
    pieces = [b""] * len(starts)

    async def fetch(place: int) -> None:
        offset = starts[place]
        pieces[place] = await _read(file, offset, min(block_bytes, start + length - offset))

    await _in_flight(
        (fetch(place) for place in range(len(starts))),
        at_once=max(1, _ASKED_AHEAD_BYTES // block_bytes),
    )
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


async def _read(file: asyncssh.SFTPClientFile, start: int, length: int) -> bytes:
    """One block. A server may answer with less than was asked for, and there is more."""
    data = b""
    while len(data) < length:
        # Text only for a file that was opened as text.
        more = cast(bytes, await file.read(length - len(data), start + len(data)))
        if not more:
            break
        data = data + more if data else more
    return data


async def _in_flight(requests: Iterable[Coroutine[Any, Any, object]], *, at_once: int) -> None:
    """Run all, so many at a time. At the first error the others are given up."""
    waiting: set[asyncio.Task[object]] = set()
    try:
        for request in requests:
            waiting.add(asyncio.ensure_future(request))
            if len(waiting) >= at_once:
                waiting = await _some_done(waiting)
        while waiting:
            waiting = await _some_done(waiting)
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def _some_done(waiting: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    """Those that still wait after one or more are done. Raises what one of these raised."""
    done, left = await asyncio.wait(
        waiting, timeout=PATIENCE_SECONDS, return_when=asyncio.FIRST_COMPLETED
    )
    if not done:
        raise TimeoutError
    failed = [error for task in done if (error := task.exception()) is not None]
    if failed:
        # The others must be waited for by somebody: our caller still has them.
        raise failed[0]
    return left


def _blocks(views: Sequence[memoryview], block_bytes: int) -> Iterator[bytes]:
    """What is to be written, cut and joined into pieces of one request each."""
    small = bytearray()
    for view in views:
        start = 0
        if small and len(small) + len(view) > block_bytes:
            yield bytes(small)
            small.clear()
        while len(view) - start >= block_bytes:
            yield bytes(view[start : start + block_bytes])
            start += block_bytes
        small += view[start:]
    if small:
        yield bytes(small)


def _block(limit_bytes: int) -> int:
    return min(limit_bytes, _LARGEST_REQUEST_BYTES) or _LARGEST_REQUEST_BYTES
