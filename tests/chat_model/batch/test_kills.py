"""A batch that is killed -9, over and over, by a script: benchmarks/kills.py does it to a million rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
ROWS, KILLS = 100_000, 50
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def outcome(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.kills", "--json", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_killed_at_any_moment_nothing_is_lost_or_doubled_and_only_what_was_under_way_is_asked_again():
    """Over a server that fails as in chaos: in the middle of a line, of an attempt, of the check at the beginning."""
    found = outcome("--rows", str(ROWS), "--kills", str(KILLS))
    assert (found["lost"], found["doubled"], found["wrong"]) == (0, 0, 0)
    # On a machine that is busy with other things, time limits end a call now and then; such a row says so.
    assert found["answered"] + found["failed"] == ROWS
    assert found["failed"] <= ROWS // 100
    assert found["most_in_flight_at_a_kill"] <= found["concurrency"]
    assert found["asked_again"] <= found["in_flight_at_kills"]
    assert found["peak_mb_over_import"] <= 150


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_memory_does_not_grow_with_the_file(kind):
    """Ten times the rows take no more of it but for eight bytes each."""
    small, large = (outcome("--rows", str(rows), "--kills", "0", "--format", kind) for rows in (500, 5000))
    assert large["peak_mb_over_import"] <= 150
    assert large["peak_mb_over_import"] - small["peak_mb_over_import"] <= 10
