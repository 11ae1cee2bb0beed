"""The command lines of a documentation page, and what it shows that they print.

A block of ``console`` is a session: lines that begin with ``$`` are run, lines that begin with
``>`` go on with them, and what stands below is printed (a line of ``…`` stands for any lines).
Before a block stands, in comments that a reader does not see, ``<!-- before …-->`` with lines that
make the situation, or ``<!-- not run: why -->`` where no test can run it.
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
_NOT_RUN = "<!-- not run:"


@dataclass
class Step:
    """A command, or a hidden line that makes the situation; ``shown`` is what stands below it."""

    command: str
    line: int
    hidden: bool = False
    shown: list[str] = field(default_factory=list)


@dataclass
class Block:
    """A fenced block. ``not_run`` is why; None for one that is run or is no session."""

    kind: str
    line: int
    text: list[str]
    not_run: str | None = None

    @property
    def is_session(self) -> bool:
        return self.kind == "console"

    def steps(self) -> Iterator[Step]:
        """The commands of a session."""
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
        found = []
        lines = enumerate(self.text, start=self.line + 1)
        for number, text in lines:
            line = text.strip().removeprefix("$ ")
            while line.endswith("\\"):
                line = line[:-1] + next(lines)[1].strip().removeprefix("> ")
            if _COMMAND.match(line):
                found.append((number, line))
        return found


def all_pages() -> list[Path]:
    """README and everything that the site shows."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> list[Block | Step]:
    """All blocks of a page, and the hidden lines between them as steps, in order."""
    found: list[Block | Step] = []
    not_run: str | None = None
    lines = iter(enumerate(page.read_text().splitlines(), start=1))
    for number, text in lines:
        if text.startswith("<!-- before"):
            found += [Step(line, at, hidden=True) for at, line in _until(lines, "-->") if line]
        elif text.startswith(_NOT_RUN):
            not_run = text.removeprefix(_NOT_RUN).removesuffix("-->").strip()
        elif fence := _FENCE.match(text):
            indent = fence[1]
            inside = [line.removeprefix(indent) for _, line in _until(lines, f"{indent}```")]
            found.append(Block(fence[2], number, inside, not_run))
            not_run = None
        elif text.strip() and not_run is not None:
            raise AssertionError(f"{page}:{number}: 'not run' stands before no block")
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
    """All that is run of a page, in order."""
    found: list[Step] = []
    for one in blocks_of(page):
        if isinstance(one, Step):
            found.append(one)
        elif one.is_session and one.not_run is None:
            found += one.steps()
    return found


def _until(lines: Iterator[tuple[int, str]], end: str) -> Iterator[tuple[int, str]]:
    for number, text in lines:
        if text.rstrip() == end:
            return
        yield number, text
    raise AssertionError(f"{end} is missing")
