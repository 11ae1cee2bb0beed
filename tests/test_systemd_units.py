"""systemd understands every line of the units that the package brings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[1] / "packaging" / "systemd"

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture
def units(tmp_path: Path, pgkeep_program: Path) -> Path:
    """A copy in which pgkeep lies where it lies here: systemd looks whether it is there."""
    copies = tmp_path / "units"
    shutil.copytree(UNITS, copies)
    service = copies / "pgkeep-backup.service"
    text = service.read_text()
    assert "ExecStart=/usr/bin/pgkeep " in text
    service.write_text(text.replace("/usr/bin/pgkeep", str(pgkeep_program)))
    return copies


def _complaints(units: Path) -> str:
    # It only warns of lines that it does not know, and ends with 0.
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(map(str, units.iterdir()))],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


def test_the_units_are_understood(units: Path) -> None:
    assert _complaints(units) == ""


@pytest.mark.parametrize(
    ("unit", "line", "wrong"),
    [
        ("pgkeep-backup.service", "NoNewPrivileges=", "NoNewPrivilege="),
        ("pgkeep-backup.timer", "OnCalendar=", "OnCalendar=every "),
    ],
)
def test_a_wrong_line_would_be_seen(units: Path, unit: str, line: str, wrong: str) -> None:
    text = (units / unit).read_text()
    assert line in text
    (units / unit).write_text(text.replace(line, wrong))
    assert unit in _complaints(units)
