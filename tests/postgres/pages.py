"""Made pages of every kind, and the scan on which all implementations agree."""

from __future__ import annotations

import random
import struct

from pgkeep.postgres.page import PageScan, checksum_page, implementations, scan_pages

KEY = bytes(range(32))
PAGE_SIZES = [1024, 2048, 4096, 8192, 16384, 32768]
ALL = implementations()


def noise(size: int, *, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def stamp(page: bytearray, block: int) -> bytes:
    """The page as a server writes it: initialised, and with its checksum."""
    struct.pack_into("=H", page, 14, 0x1F38)
    struct.pack_into("=H", page, 8, checksum_page(page, block))
    return bytes(page)


def sound_page(page_size: int, block: int, *, seed: int = 0) -> bytes:
    return stamp(bytearray(noise(page_size, seed=seed)), block)


def made_page(kind: str, page_size: int, block: int, seed: int) -> bytes:
    page = bytearray(noise(page_size, seed=seed))
    if kind == "zero":
        return bytes(page_size)
    if kind == "new, not zero":
        struct.pack_into("=H", page, 14, 0)
    elif kind == "sound":
        return stamp(page, block)
    elif kind == "moved":
        return stamp(page, (block + 1) % 2**32)
    elif kind == "flipped":
        page = bytearray(stamp(page, block))
        page[page_size // 2 + seed % 100] ^= 1 << seed % 8
    return bytes(page)


def one_verdict(data: bytes, **options: object) -> PageScan:
    """The result that all implementations agree on."""
    scans = {name: scan_pages(data, implementation=name, **options) for name in ALL}  # type: ignore[arg-type]
    assert len(set(scans.values())) == 1, f"they differ: {scans}"
    return scans[ALL[0]]
