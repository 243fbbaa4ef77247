"""The short form of scripts/chaos.py: three kills with -9, the first in the middle of writing a checkpoint."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "chaos.py"


def torment(report: Path, *options: str) -> dict:
    done = subprocess.run([sys.executable, SCRIPT, "--report", report, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "**no difference**" in report.with_suffix(".md").read_text()
    return json.loads(report.with_suffix(".json").read_text())


def test_three_kills_one_while_saving_change_nothing(tmp_path):
    summary = torment(tmp_path / "chaos", "--kills", "3", "--steps", "60", "--save_every", "5")
    assert len(summary["history"]) == 3 and summary["differences"] == []
    assert summary["history"][0]["half written"][0].startswith(".partial_global_step_")


@pytest.mark.slow
def test_twenty_kills_change_nothing(tmp_path):
    assert len(torment(tmp_path / "chaos", "--seed", "1")["history"]) == 20
