"""The command lines of a documentation page, and what it shows that they print.

A block of ``console`` is a session: lines that begin with ``$`` are run, lines that begin with
``>`` go on with them, and what stands below is printed (a line of ``…`` stands for any lines).
A block of ``sh`` is command lines alone, to be copied; one of ``sql`` is for ``psql``. Before a
block stands, in a comment that a reader does not see, ``<!-- before …-->`` with lines that make
the situation. What no test can run is named in ``not_run.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^( *)```(\S*)")
# Three spaces stand between columns, and not between words.
_COMMAND = re.compile(r"^(?:[A-Z_]+=\S+ )*pgkeep(?: (?!.*\S {3,}[^#\s])|$)")
_INLINE = re.compile(r"`(?:[A-Z_]+=\S+ )*pgkeep ([^`]+)`")


@dataclass
class Step:
    """A command, or a hidden line that makes the situation; ``shown`` is what stands below it."""

    command: str
    line: int
    hidden: bool = False
    shown: list[str] = field(default_factory=list)


@dataclass
class Block:
    """A fenced block."""

    kind: str
    line: int
    text: list[str]

    def steps(self) -> Iterator[Step]:
        """The commands in it, none if it is of another kind than those that are run."""
        if self.kind == "console":
            yield from self._session()
        elif self.kind == "sh":
            for number, text in _joined(self.text, start=self.line + 1):
                if text.strip() and not text.startswith("#"):
                    yield Step(text, number)
        elif self.kind == "sql":
            script = "\n".join(self.text)
            yield Step(f"psql -v ON_ERROR_STOP=1 <<'END'\n{script}\nEND", self.line + 1)

    def _session(self) -> Iterator[Step]:
        step: Step | None = None
        for number, text in enumerate(self.text, start=self.line + 1):
            if text.startswith("$ "):
                if step is not None:
                    yield step
                step = Step(text[2:], number)
            elif step is None:
                raise AssertionError(f"line {number}: a session begins with a command ($ …)")
            elif text.startswith("> "):
                step.command += "\n" + text[2:]
            elif text.strip():
                step.shown.append(text)
        if step is not None:
            yield step

    def pgkeep_lines(self) -> list[tuple[int, str]]:
        """Command lines of pgkeep, in whatever kind of block."""
        text = [line.strip().removeprefix("$ ").removeprefix("> ") for line in self.text]
        joined = _joined(text, start=self.line + 1)
        return [(number, line) for number, line in joined if _COMMAND.match(line)]


def all_pages() -> list[Path]:
    """README and everything that the site shows."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block | Step]:
    """All blocks of a page, and the hidden lines between them as steps, in order."""
    found: list[Block | Step] = []
    lines = iter(enumerate(page.read_text().splitlines(), start=1))
    for number, text in lines:
        if text.startswith("<!-- before"):
            found += [Step(line, at, hidden=True) for at, line in _until(lines, "-->") if line]
        elif fence := _FENCE.match(text):
            indent = fence[1]
            inside = [line.removeprefix(indent) for _, line in _until(lines, f"{indent}```")]
            found.append(Block(fence[2], number, inside))
    return found


def inline_commands(page: Path) -> list[tuple[int, str]]:
    """What stands as a command of pgkeep within a sentence: ``pgkeep list --cost``."""
    found = []
    inside = False
    for number, text in enumerate(page.read_text().splitlines(), start=1):
        if _FENCE.match(text):
            inside = not inside
        elif not inside:
            found += [(number, one) for one in _INLINE.findall(text)]
    return found


def steps_of(page: Path) -> list[Step]:
    """All commands of a page, and the hidden lines between them, in order."""
    found: list[Step] = []
    for one in blocks_of(page):
        found += [one] if isinstance(one, Step) else one.steps()
    return found


def _joined(text: list[str], *, start: int) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, those that end in a backslash with what follows."""
    lines = enumerate(text, start=start)
    for number, line in lines:
        while line.endswith("\\"):
            line = line[:-1] + next(lines)[1].lstrip()
        yield number, line


def _until(lines: Iterator[tuple[int, str]], end: str) -> Iterator[tuple[int, str]]:
    for number, text in lines:
        if text.rstrip() == end:
            return
        yield number, text
    raise AssertionError(f"{end} is missing")
