"""docs/reliability.md says how many inputs are tried: as many as pytest collects for the command beside it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| ([^|]+) \| ([\d,]+) \| ([\d,]+) \| `pytest ([^`|]+)` \|$", re.MULTILINE)


def rows() -> dict[str, tuple[int, int, list[str]]]:
    """Of each kind of attack: inputs tried, inputs held, and what pytest is called with."""
    text = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
    return {
        kind: (int(tried.replace(",", "")), int(held.replace(",", "")), selected.split())
        for kind, tried, held, selected in ROW.findall(text)
    }


def test_the_figures_are_those_that_pytest_collects():
    """Each input is a test of its own, and each of them passes, or it would be said here."""
    wanted = rows()
    selected = sorted({word for *_, words in wanted.values() for word in words})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:xdist", *selected]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    collected = Counter(line.partition("[")[0] for line in done.stdout.splitlines() if "::" in line)
    counts = {
        kind: sum(number for test, number in collected.items() if test.startswith(tuple(words)))
        for kind, (*_, words) in wanted.items()
    }
    assert {kind: tried for kind, (tried, *_) in wanted.items()} == counts


def test_every_attack_is_in_the_table():
    """And what held is all that was tried."""
    selected = {word.partition("::")[0] for *_, words in rows().values() for word in words}
    modules = {f"tests/attacks/{path.name}" for path in Path(__file__).parent.glob("test_*.py")}
    assert modules - {"tests/attacks/test_figures.py"} <= selected
    assert [kind for kind, (tried, held, _) in rows().items() if tried != held] == []
