"""How an operation says what it is doing, without knowing who listens.

Operations are handed a ``Progress`` and call it from any thread; the command line shows a bar, log
lines or JSON, a program may show what it likes, and ``Silent`` shows nothing.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a listener offers. All methods may be called from many threads at once."""

    def phase(self, name: str) -> None:
        """A new part of the work begins, said in the present: ``copying 412 files``."""

    def total(self, size_bytes: int, files: int = 0) -> None:
        """How much this phase has to do, as far as known; may be called again to correct it."""

    def advance(self, size_bytes: int) -> None:
        """So many bytes more are done."""

    def note(self, text: str) -> None:
        """A fact worth a line, for whoever watches closely."""

    def warn(self, text: str) -> None:
        """One sentence that the user has to see, however little is shown otherwise."""


class Silent:
    """Shows nothing, and keeps the warnings for whoever asks afterwards."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def phase(self, name: str) -> None:
        pass

    def total(self, size_bytes: int, files: int = 0) -> None:
        pass

    def advance(self, size_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        self.warnings.append(text)
