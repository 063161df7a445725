"""Runs the peers' own test suites against our model: `python tests/peers/run.py [suite ...]`, after `install.py`.

Whatever fails and is not in `not_applicable.yaml` fails the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from install import ENV, PEERS, SUITES, installed

TESTS: Mapping[str, Sequence[str]] = {
    "langchain": ["tests/unit_tests/agents"],
    "langgraph-prebuilt": ["tests"],
    "langchain-litellm": [
        f"tests/unit_tests/test_{name}.py"
        for name in ("router", "router_responses_api", "standard_router", "thinking_round_trip")
    ],
}
"""Where models are asked."""


def run(suite: str) -> bool:
    """Whether it passes."""
    home = PEERS / f"{suite.replace('-', '_')}-{installed(suite)}"
    # Their databases are servers of their own.
    environment = {**os.environ, "PEER": suite, "NO_DOCKER": "true", "PYTHONPATH": str(Path(__file__).parent)}
    # Their own options would print a line for each test.
    quiet = ["-q", "--no-header", "--tb", "short", "-o", "addopts=--snapshot-warn-unused"]
    options = [*quiet, "-n", "2", "-p", "stand_in", "--timeout", "120"]
    command = [ENV / "bin" / "python", "-m", "pytest", *options, *TESTS[suite]]
    print(f"== {suite}", flush=True)
    return subprocess.run(command, cwd=home, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    results = [run(suite) for suite in sys.argv[1:] or SUITES]
    sys.exit(not all(results))
