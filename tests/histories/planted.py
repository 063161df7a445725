"""Faults planted in the source, one at a time, to see who notices: the histories of a model, and the nearest tests.

    python -m tests.histories.planted [--seeds 2000]

Each is planted in a copy of the source. A fault that nobody notices is a hole in the tests, not in the engine.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TESTS_S = 300
"""After which tests are taken for such as do not end."""
_SEARCH = """
import sys
from tests.histories.plans import plan
from tests.histories.replay import breach
for seed in range(int(sys.argv[1])):
    if (broken := breach(plan(seed))) is not None:
        print(seed, str(broken).partition("\\n")[0].partition(": ")[2])
        break
"""


@dataclass(frozen=True)
class Fault:
    """A line of the source, and what is wrong in its place."""

    what: str
    file: str
    right: str
    wrong: str
    nearest: str
    """The tests of that file."""


FAULTS = (
    Fault(
        "repeats are not counted",
        "engine/policy.py",
        "self.repeats += repeat",
        "self.repeats += 0",
        "engine/test_policy.py",
    ),
    Fault(
        "a breaker opens one failure late",
        "engine/circuit_breaker.py",
        "failures >= settings.failures and",
        "failures > settings.failures and",
        "engine/test_circuit_breaker.py",
    ),
    Fault(
        "the retry budget allows everything",
        "engine/retry.py",
        "return spent + 1 <= max(self._floor, self._share * calls)",
        "return spent + 1 <= max(self._floor, self._share * calls) or True",
        "engine/test_retry.py",
    ),
    Fault(
        "what costs nothing keeps its reservation",
        "engine/budget.py",
        "balance.reserved -= reserved",
        "balance.reserved -= reserved if cost else _NOTHING",
        "engine/test_budget.py",
    ),
    Fault(
        "a call that is cancelled keeps its place",
        "engine/settlement.py",
        "self._deployment.cancelled(self._permit)\n        health.notify",
        "pass\n        health.notify",
        "engine/test_execution.py",
    ),
    Fault(
        "total_s ends with the first content",
        "engine/attempt.py",
        "total = self.request.call.deadline",
        "total = math.inf if self.delivered else self.request.call.deadline",
        "engine/test_execution.py",
    ),
    Fault(
        "what a continuation repeats is delivered again",
        "engine/attempt.py",
        "chunk.with_text(trimmer.feed(chunk.text))",
        "chunk.with_text(chunk.text)",
        "engine/test_continuation.py",
    ),
    Fault(
        "a side route leaves the call's zones",
        "plan/plan.py",
        "on_content_policy=inside(self.on_content_policy)",
        "on_content_policy=self.on_content_policy",
        "end_to_end/test_choice.py",
    ),
    Fault(
        "a stream that breaks off costs nothing",
        "engine/attempt.py",
        'if outcome == "failed" and self.partial.is_empty:',
        'if outcome == "failed":',
        "end_to_end/test_budgets.py",
    ),
    Fault(
        "Retry-After is ignored",
        "engine/health.py",
        "return self._record_failure(permit, now, failure, retry_after_s)",
        "return self._record_failure(permit, now, failure, None)",
        "engine/test_health.py",
    ),
    Fault(
        "who asked for a probe's lease gives it back before the next call",
        "fleet/leases.py",
        "if now < self._kept_until:\n            self._need",
        "if False:\n            self._need",
        "fleet/test_leases.py",
    ),
    Fault(
        "a tool call that was held back lacks its beginning",
        "engine/attempt.py",
        "self._ready.extend(self._held_back)",
        "self._ready.extend(self._held_back[1:])",
        "engine/test_continuation.py",
    ),
    Fault(
        "what is settled during an exchange with the file is never written",
        "engine/bookkeeper.py",
        "self._owe({spender_key: -usd for spender_key, usd in owed.items()})",
        "self._owed.clear()",
        "engine/test_bookkeeper.py",
    ),
)


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONWARNINGS": "ignore"}


def planted(fault: Fault, folder: Path) -> None:
    """A copy of the source with the fault in it."""
    shutil.copytree(ROOT / "src", folder, dirs_exist_ok=True)
    file = folder / "llm_fallback" / fault.file
    text = file.read_text()
    assert text.count(fault.right) == 1, f"{fault.right!r} stands {text.count(fault.right)} times in {fault.file}"
    file.write_text(text.replace(fault.right, fault.wrong))


def found_by_histories(folder: Path, seeds: int) -> str:
    command = [sys.executable, "-c", _SEARCH, str(seeds)]
    found = subprocess.run(command, cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=False)
    if found.returncode:
        return found.stderr.strip().splitlines()[-1]
    seed, _, promise = found.stdout.strip().partition(" ")
    return f"seed {seed}: {promise}" if seed else f"not within {seeds} seeds"


def found_by_tests(folder: Path, nearest: str) -> str:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "--hypothesis-profile=fast",
        "-m",
        "not servers and not slow",
    ]
    command += ["-o", "pythonpath=", "-p", "no:cacheprovider", f"tests/{nearest}"]
    try:
        ran = subprocess.run(
            command, cwd=ROOT, env=environment(folder), capture_output=True, text=True, check=False, timeout=_TESTS_S
        )
    except subprocess.TimeoutExpired:
        return "does not end"
    failed = re.search(r"^FAILED [^:]+::([\w:]+)", ran.stdout, re.MULTILINE)
    return failed[1] if failed else "not" if ran.returncode == 0 else ran.stdout.strip().splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2000)
    seeds = parser.parse_args().seeds
    print("| planted | found by histories | found by the nearest tests |\n|---|---|---|")
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            planted(fault, folder)
            histories, tests = found_by_histories(folder, seeds), found_by_tests(folder, fault.nearest)
        print(f"| {fault.what} | {histories} | {tests} ({fault.nearest}) |", flush=True)


if __name__ == "__main__":
    main()
