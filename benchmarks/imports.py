"""How long an import takes in a fresh process, and what it drags along.

python -m benchmarks.imports [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass

from benchmarks.tables import table

GOAL_S = 0.15
"""For `import llm_fallback`."""
OURS = "import llm_fallback"
STATEMENTS = (
    *(OURS, "from llm_fallback import load_spec", "import llm_fallback.testing"),
    *("from llm_fallback import build_chat_model", "import langchain_openai", "import langchain_litellm"),
)
HEAVY = ("litellm", "langchain", "openai", "aiohttp", "pydantic")
MEASURE = """
import json, sys, time
began = time.perf_counter()
{statement}
taken = time.perf_counter() - began
print(json.dumps([taken, sorted({{name.partition(".")[0] for name in sys.modules}})]))
"""


@dataclass(frozen=True)
class Import:
    """One import in a process of its own."""

    seconds: float
    packages: frozenset[str]

    @property
    def heavy(self) -> list[str]:
        """Packages that make an import slow, as far as they came along."""
        return [word for word in HEAVY if any(name.startswith(word) for name in self.packages)]


def imported(statement: str) -> Import:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE.format(statement=statement)],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, packages = json.loads(done.stdout.splitlines()[-1])
    return Import(seconds, frozenset(packages))


def main(tries: int) -> None:
    found = {statement: [imported(statement) for _ in range(tries)] for statement in STATEMENTS}
    taken = {statement: statistics.median(each.seconds for each in tried) for statement, tried in found.items()}
    rows = [
        (statement, f"{taken[statement]:.3f}", ", ".join(tried[0].heavy) or "none of them")
        for statement, tried in found.items()
    ]
    print(table(("import", "s", f"loads, of {', '.join(HEAVY)}"), rows))
    met = taken[OURS] <= GOAL_S and not found[OURS][0].heavy
    print(f"\ngoal: {OURS} in {GOAL_S} s, without litellm or LangChain: {'met' if met else 'missed'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one try each")
    main(1 if parser.parse_args().quick else 5)
