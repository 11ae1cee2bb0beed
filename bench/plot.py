"""The same figures as bars: one SVG, drawn by hand, readable in light and dark."""

from __future__ import annotations

from html import escape

from bench.results import Results, Row

WIDTH = 860
LABEL_WIDTH = 300
BAR_WIDTH = 400
BAR_HEIGHT = 20
STEP = 30
HEADINGS = {"backup": "Full backup, MB/s of database", "restore": "Restore, MB/s of database"}
STYLE = """
  .t{font:13px system-ui,sans-serif;fill:#24292f} .h{font-weight:600;font-size:15px}
  .own{fill:#1f6feb} .peer{fill:#8c959f} .floor{fill:#d4a72c}
  .range{stroke:#24292f;stroke-width:1.5}
  @media (prefers-color-scheme: dark){.t{fill:#e6edf3}.range{stroke:#e6edf3}}
"""


def draw(results: Results) -> str:
    """An SVG of median speeds; a thin line spans the slowest to the fastest round."""
    parts: list[str] = []
    height = 10
    for group, heading in HEADINGS.items():
        rows = [row for row in results.rows if row.group == group and row.runs]
        parts.append(_text(10, height + 20, heading, "t h"))
        height += 34
        fastest = max((_rates(results, row)[2] for row in rows), default=1.0)
        for row in sorted(rows, key=lambda row: row.median_seconds):
            parts.append(_bar(results, row, top=height, fastest=fastest))
            height += STEP
        height += 16
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Speed of full backup and restore">\n<style>{STYLE}</style>\n{body}\n</svg>\n'
    )


def _rates(results: Results, row: Row) -> tuple[float, float, float]:
    megabytes = results.database_bytes / 1e6
    walls = row.wall_seconds
    return megabytes / max(walls), megabytes / row.median_seconds, megabytes / min(walls)


def _bar(results: Results, row: Row, *, top: int, fastest: float) -> str:
    low, middle, high = _rates(results, row)
    scale = BAR_WIDTH / fastest
    kind = "own" if row.key.startswith("pgkeep") else "peer"
    if row.key.startswith(("raw", "copy")):
        kind = "floor"
    centre = top + BAR_HEIGHT / 2
    left, right = LABEL_WIDTH + low * scale, LABEL_WIDTH + high * scale
    return "\n".join(
        [
            _text(10, top + 15, row.title, "t"),
            f'<rect class="{kind}" x="{LABEL_WIDTH}" y="{top}" '
            f'width="{middle * scale:.1f}" height="{BAR_HEIGHT}" rx="2"/>',
            f'<line class="range" x1="{left:.1f}" x2="{right:.1f}" y1="{centre}" y2="{centre}"/>',
            _text(LABEL_WIDTH + round(high * scale) + 8, top + 15, f"{middle:.0f}", "t"),
        ]
    )


def _text(x: int, y: int, text: str, style: str) -> str:
    return f'<text class="{style}" x="{x}" y="{y}">{escape(text)}</text>'
