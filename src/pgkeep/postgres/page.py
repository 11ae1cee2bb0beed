"""Pages of a relation file: their hashes, their holes, and whether they are sound.

A backup looks at every byte of a database once. ``scan_pages`` says all there is to know
about a run of pages from that one look: an 8-byte keyed BLAKE3 hash per page (by which the
next backup knows what has changed), which pages are all zero (holes that need no storage),
and which fail PostgreSQL's own verification. One result per run, one byte and one hash per
page, so that no Python runs per page unless a page is bad.

The work is done by a C module of a few hundred lines, which releases the GIL, or, where it
could not be built, by numpy with the same results. Which of them is at work is never guessed:
``implementation_name`` says it.

Verification follows ``PageIsVerified`` (src/backend/storage/page/bufpage.c): a page whose
``pd_upper`` is zero is new, has no checksum and must be all zero. ``pg_checksums`` and the
server's BASE_BACKUP skip such a page without looking further; here one that is not all zero
is reported, as a state of its own. The checksum is that of ``storage/checksum_impl.h``. The
header's other sanity checks are left out, since a page with a good checksum that the server
would still refuse was written so by the server.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

from .lsn import Lsn

if TYPE_CHECKING:
    from typing_extensions import Buffer

HASH_SIZE = 8
"""Bytes of one page's hash: the first eight of its keyed BLAKE3."""

DEFAULT_PAGE_SIZE = 8192
"""BLCKSZ of every packaged PostgreSQL; ``pg_control`` knows the server's own."""

NO_BLOCK = -1
_AUTO = "auto"
_NUMPY = "numpy"
_ZERO_RUN = re.compile(rb"\x01+")
_FAILED = re.compile(rb"[\x02\x03]")
_LSN = struct.Struct("=II")
_HEADER = struct.Struct("=IIHHHHHHI")


class PageState(enum.IntEnum):
    """What a look at a page's bytes says. A page is exactly one of these."""

    DATA = 0  # holds something; its checksum is right, or was not asked for
    ZERO = 1  # every byte is zero: a hole, and fine
    CHECKSUM_MISMATCH = 2  # pd_checksum is not the checksum of these bytes at this block
    INVALID_NEW = 3  # pd_upper is zero, which marks a new page, yet it is not all zero


@dataclass(frozen=True, slots=True)
class FailedPage:
    """A page that PostgreSQL would refuse to read.

    ``index`` counts from the start of the run that was scanned. ``lsn`` is what the page
    claims: the end of the WAL record that changed it last; a torn page claims either.
    """

    index: int
    lsn: Lsn
    kind: PageState


@dataclass(frozen=True, slots=True)
class PageScan:
    """What one run of pages holds; a partial last page counts as a page.

    ``hashes`` has 8 bytes a page, ``states`` one byte a page (a ``PageState``).
    """

    hashes: bytes
    states: bytes
    failed: tuple[FailedPage, ...]

    @property
    def page_count(self) -> int:
        return len(self.states)

    def hash_of(self, index: int) -> bytes:
        """The 8-byte hash of one page."""
        if not 0 <= index < self.page_count:
            raise IndexError(f"page {index} of {self.page_count}")
        return self.hashes[index * HASH_SIZE : (index + 1) * HASH_SIZE]

    def zero_runs(self) -> Iterator[tuple[int, int]]:
        """Runs of all-zero pages, ascending, as (first, one past the last)."""
        return (match.span() for match in _ZERO_RUN.finditer(self.states))

    @property
    def is_all_zero(self) -> bool:
        """Whether there is nothing but zero bytes; true of no pages at all."""
        return self.states.count(PageState.ZERO) == self.page_count


@dataclass(frozen=True, slots=True)
class PageHeader:
    """``PageHeaderData`` of src/include/storage/bufpage.h.

    ``lower``, ``upper`` and ``special`` are offsets in bytes from the page's start.
    """

    lsn: Lsn
    checksum: int
    flags: int
    lower: int
    upper: int
    special: int
    page_size: int
    layout_version: int
    prune_xid: int

    @property
    def is_new(self) -> bool:
        """PostgreSQL's ``PageIsNew``: never initialised, so there is no checksum either."""
        return self.upper == 0


class _Implementation(Protocol):
    def scan(
        self, data: Buffer, page_size: int, key: Buffer, first_block: int, kernel: str, /
    ) -> tuple[bytes, bytes]: ...
    def checksum(self, page: Buffer, block: int, kernel: str, /) -> int: ...


def scan_pages(
    data: Buffer,
    *,
    key: bytes,
    page_size: int = DEFAULT_PAGE_SIZE,
    first_block: int = 0,
    verify: bool = True,
    implementation: str = _AUTO,
) -> PageScan:
    """Hash, classify and verify a run of pages, without the GIL where the C module is.

    ``data`` is any contiguous buffer of bytes, at any alignment; nothing is copied. Its last
    page may be partial: it is hashed as it is, and never verified, since a server has no such
    page; whoever knows the file's length knows what it means. ``key`` has 32 bytes.
    ``first_block`` is the number of the first page *in the relation* (segment number times
    the segment's pages included), as the checksum needs it. Without ``verify`` a page is only
    DATA or ZERO: for a cluster without checksums, and for files that are no relations.

    Raises ValueError for a page size that is no power of two from 1024 to 32768, a key of
    another length, a block number beyond 32 bits, or an implementation that is not here.
    """
    module, kernel = _resolve(implementation)
    if first_block < 0:
        raise ValueError("a block number is not negative")
    start = first_block if verify else NO_BLOCK
    hashes, states = module.scan(data, page_size, key, start, kernel)
    failed = tuple(_failed_page(data, match, page_size) for match in _FAILED.finditer(states))
    return PageScan(hashes=hashes, states=states, failed=failed)


def checksum_page(page: Buffer, block: int, *, implementation: str = _AUTO) -> int:
    """The checksum (1 to 65535) that PostgreSQL writes into this page as this block.

    ``block`` counts in the relation, not in the segment file. What ``pd_checksum`` holds is
    taken as zero, so the page may carry its checksum or not.
    """
    module, kernel = _resolve(implementation)
    return module.checksum(page, block, kernel)


def page_lsn(page: Buffer, offset: int = 0) -> Lsn:
    """``pd_lsn`` of the page that starts at ``offset``: two 32-bit halves, in native order."""
    high, low = _LSN.unpack_from(page, offset)
    return Lsn((high << 32) | low)


def parse_page_header(page: Buffer, offset: int = 0) -> PageHeader:
    """The header of the page that starts at ``offset``; the page itself is not judged.

    Raises ValueError when there are fewer than the 24 bytes of a header.
    """
    if memoryview(page).nbytes - offset < _HEADER.size:
        raise ValueError(f"a page header has {_HEADER.size} bytes")
    high, low, checksum, flags, lower, upper, special, size_version, prune_xid = (
        _HEADER.unpack_from(page, offset)
    )
    return PageHeader(
        lsn=Lsn((high << 32) | low),
        checksum=checksum,
        flags=flags,
        lower=lower,
        upper=upper,
        special=special,
        page_size=size_version & 0xFF00,
        layout_version=size_version & 0x00FF,
        prune_xid=prune_xid,
    )


@cache
def implementations() -> tuple[str, ...]:
    """What can scan pages on this machine, the fastest first.

    ``c-avx512``, ``c-avx2`` and ``c-portable`` are the C module with the vectors that this
    processor has; ``numpy`` is always the last.
    """
    try:
        from . import _pages
    except ImportError:
        return (_NUMPY,)
    return (*(f"c-{kernel}" for kernel in _pages.kernels()), _NUMPY)


def implementation_name() -> str:
    """The one that ``auto`` means here."""
    return implementations()[0]


def _resolve(implementation: str) -> tuple[_Implementation, str]:
    name = implementation_name() if implementation == _AUTO else implementation
    if name not in implementations():
        raise ValueError(f"no {name} here; there are {', '.join(implementations())}")
    if name == _NUMPY:
        from . import _pages_numpy

        return _pages_numpy, _NUMPY
    from . import _pages

    return _pages, name.removeprefix("c-")


def _failed_page(data: Buffer, match: re.Match[bytes], page_size: int) -> FailedPage:
    index = match.start()
    return FailedPage(
        index=index,
        lsn=page_lsn(data, index * page_size),
        kind=PageState(match.group()[0]),
    )
