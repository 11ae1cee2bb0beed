"""Log lines on standard error: time, level, cluster, operation, event, then facts as key=value.

Shown with ``-v``. Facts are chosen one by one where they are logged; settings and errors are never
logged whole, so no secret can slip in.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import TextIO


class Log:
    """Writes one line an event, or nothing at all when it is not ``on``. Thread-safe."""

    def __init__(
        self, stream: TextIO, *, on: bool, cluster: str = "-", operation: str = "-"
    ) -> None:
        self.on = on
        self.cluster = cluster
        self.operation = operation
        self._stream = stream
        self._lock = threading.Lock()

    def info(self, event: str, **facts: object) -> None:
        self._write("info", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        self._write("warning", event, facts)

    def _write(self, level: str, event: str, facts: dict[str, object]) -> None:
        if self.on:
            with self._lock:
                print(
                    log_line(level, self.cluster, self.operation, event=event, facts=facts),
                    file=self._stream,
                    flush=True,
                )


def log_line(
    level: str, cluster: str, operation: str, *, event: str, facts: dict[str, object]
) -> str:
    """One line; values with spaces or quotes are quoted."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    words = [now, level, cluster, operation, event.replace(" ", "-")]
    return " ".join([*words, *(f"{name}={_quoted(value)}" for name, value in facts.items())])


def _quoted(value: object) -> str:
    text = str(value).replace("\n", " ")
    if text and not any(sign in text for sign in ' "='):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
