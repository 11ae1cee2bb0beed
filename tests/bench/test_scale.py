"""The simulated cluster is still one that pgkeep takes."""

import json

import pytest

from bench import scale


def test_a_small_one_is_backed_up_twice_surveyed_and_planned(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench.scale", "--large", "1", "--small", "3"])
    assert scale.main() == 0
    found = json.loads(capfd.readouterr().out)
    assert found["survey"]["files"] == found["plan"]["files"] == 4
    assert 0 < found["successor"]["metadata_bytes"] < found["full"]["metadata_bytes"]
