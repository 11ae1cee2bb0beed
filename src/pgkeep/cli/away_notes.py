"""What ``wal-push`` remembers of repositories that kept it waiting, so that the next call does not
wait for them again."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

AWAY_SECONDS = 60.0


class AwayNotes:
    """Which repositories were away lately: an empty file for each, whose age tells when."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def is_away(self, name: str) -> bool:
        """Whether it was found away less than a minute ago."""
        try:
            age = time.time() - (self._folder / name).stat().st_mtime
        except OSError:
            return False
        return 0 <= age < AWAY_SECONDS

    def note(self, name: str, *, is_away: bool) -> None:
        """Remember it; this is only about speed, so that nothing can fail of it."""
        with suppress(OSError):
            if not is_away:
                (self._folder / name).unlink(missing_ok=True)
                return
            self._folder.mkdir(mode=0o700, exist_ok=True)
            (self._folder / name).write_bytes(b"")
