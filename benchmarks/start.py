"""What a fresh process waits for: imports, the command `check`, and a first answer over HTTP.

    python -m benchmarks.start [--quick]

A first answer is told beside that of ChatLiteLLMRouter, beside the import of litellm alone, though it needs LangChain
too, and with the hosts that were looked up for it: there should be none.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving import served
from benchmarks.tables import table

ROOT = Path(__file__).parents[1]
IMPORT_GOAL_S, CHECK_GOAL_S, ANSWER_GOAL_S = 0.1, 0.4, 0.3
"""For `import llm_fallback`, for `check`, and for a first answer beyond the import of litellm."""
OURS = "import llm_fallback"
NEEDED = "import litellm"
ANSWER = """
from llm_fallback import build_chat_model
deployment = {{"backend": "vllm", "model": "plain", "api_base": "{url}/plain", "price": "free"}}
build_chat_model({{"deployments": {{"a": deployment}}, "chains": {{"c": {{"tiers": ["a"]}}}}}}).invoke("hi")
"""
ROUTER_S_ANSWER = """
import litellm
from langchain_litellm import ChatLiteLLMRouter
words = {{"model": "hosted_vllm/plain", "api_base": "{url}/plain/v1", "api_key": "none"}}
router = litellm.Router(model_list=[{{"model_name": "plain", "litellm_params": words}}])
ChatLiteLLMRouter(router=router, model="plain").invoke("hi")
"""
IMPORTS = (
    *(OURS, "from llm_fallback import load_spec", "import llm_fallback.testing"),
    *(NEEDED, "import langchain_openai", "import langchain_litellm"),
)
HEAVY = ("litellm", "langchain", "openai", "aiohttp", "pydantic")
MEASURE = """
import json, socket, sys, time
looked_up, look_up = [], socket.getaddrinfo
def noted(host, *rest, **more):
    looked_up.append(str(host))
    return look_up(host, *rest, **more)
socket.getaddrinfo = noted
began = time.perf_counter()
{statement}
taken = time.perf_counter() - began
print(json.dumps([taken, sorted({{name.partition(".")[0] for name in sys.modules}}), looked_up]))
"""
CHECK = """
import contextlib, io
from llm_fallback.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    main(["check", "-f", "{file}"], standalone_mode=False)
"""


@dataclass(frozen=True)
class Start:
    """What some statements took in a process of their own."""

    seconds: float
    packages: frozenset[str]
    looked_up: frozenset[str]
    """Hosts, without this machine."""

    @property
    def heavy(self) -> list[str]:
        """Packages that make an import slow, as far as they came along."""
        return [word for word in HEAVY if any(name.startswith(word) for name in self.packages)]


def started(statements: str) -> Start:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE.format(statement=statements)],
        env={**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, packages, hosts = json.loads(done.stdout.splitlines()[-1])
    return Start(seconds, frozenset(packages), frozenset(hosts) - {"127.0.0.1", "localhost"})


def verdict(name: str, seconds: float, goal_s: float) -> str:
    return f"goal: {name} in {goal_s} s; it takes {seconds:.2f} s, {'met' if seconds <= goal_s else 'missed'}"


def main(tries: int) -> None:
    with served() as url:
        statements = {
            **{name: name for name in IMPORTS},
            "llm-fallback check": CHECK.format(file=ROOT / "examples/demo/llm-fallback.yaml"),
            "a first answer of ours": ANSWER.format(url=url),
            "a first answer of ChatLiteLLMRouter": ROUTER_S_ANSWER.format(url=url),
        }
        rounds = [{name: started(words) for name, words in statements.items()} for _ in range(tries)]
    taken = {name: statistics.median(turn[name].seconds for turn in rounds) for name in statements}
    beyond = statistics.median(turn["a first answer of ours"].seconds - turn[NEEDED].seconds for turn in rounds)
    rows = [
        (name, f"{taken[name]:.3f}", ", ".join(own.heavy) or "none of them", ", ".join(own.looked_up) or "none")
        for name, own in rounds[0].items()
    ]
    print(table(("in a fresh process", "s", f"loads, of {', '.join(HEAVY)}", "looks up"), rows), "\n")
    print(verdict(OURS, taken[OURS], IMPORT_GOAL_S))
    print(verdict("check", taken["llm-fallback check"], CHECK_GOAL_S))
    print(verdict(f"a first answer beyond `{NEEDED}`", beyond, ANSWER_GOAL_S))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one try each")
    main(1 if parser.parse_args().quick else 11)
