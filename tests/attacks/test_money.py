"""A budget at its limit while processes are killed: nothing that was settled is forgotten, and no more is spent."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from random import Random

import pytest

from tests.engine.test_budget_file import CENT, budget_limit, lines_of_ours, spend

LIMIT = 40
"""Cents a day."""

_SPENDS = """
import sys
from pathlib import Path
from tests.engine.test_budget_file import budget_limit, spend
one = budget_limit(Path(sys.argv[1]), "0.40")
print("begun", flush=True)
while spend(one):
    print("settled", flush=True)
print("nothing left", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_process_that_is_killed_at_any_moment_forgets_nothing_it_settled(tmp_path, seed):
    """Killed after some attempts, wherever it is by then; the next goes on with what is left, to the limit."""
    path, chance, told, kills = tmp_path / "budget", Random(seed), 0, 0
    while kills < 4:
        after = chance.randrange(1, 9)
        command = [sys.executable, "-c", _SPENDS, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            said = [process.stdout.readline() for _ in range(after)]
            process.kill()
            said += process.stdout.readlines()
        kills += 1
        told += said.count("settled\n")
        # It may have settled one more than it came to tell.
        assert told * CENT <= lines_of_ours(path) <= (told + kills) * CENT
    rest = budget_limit(path, "0.40")
    while spend(rest):
        told += 1
    assert lines_of_ours(path) == LIMIT * CENT
    assert LIMIT - kills <= told <= LIMIT
    assert not spend(budget_limit(path, str(LIMIT * CENT + Decimal("0.005"))))
