"""A server whose capacity changes, 64, 8, 32 requests at a time, 429 beyond: what does each way to choose a number get?

    python -m benchmarks.concurrency [--seconds 60]

Each contestant answers a file for so many seconds per phase, all in turn against the same server, in one process each.
The fixed numbers are `--concurrency N` of the same batch; a refused request is repeated by the same policy.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.chat_server import Capacity, RunningServer, running
from benchmarks.tables import table
from llm_fallback import build_chat_model
from llm_fallback.chat_model.batch.survey import BatchRequest

PHASES = (64, 8, 32)
FIXED = (8, 16, 32, 64)
ROWS = 30_000
"""More than any contestant answers."""


def spec_of(server: RunningServer) -> dict[str, Any]:
    deployment = {"backend": "vllm", "model": "m", "api_base": f"{server.url}/m", "price": "free"}
    return {"deployments": {"m": deployment}, "chains": {"main": {"tiers": ["m"]}}}


async def contend(server: RunningServer, concurrency: int | str, seconds: float) -> list[dict[str, Any]]:
    """What came of each phase; the second half of it, when it has settled, also by itself."""
    phases = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "questions.jsonl"
        with source.open("w") as file:
            file.writelines(f'{{"prompt": "question {number}"}}\n' for number in range(ROWS))
        request = BatchRequest(source, Path(folder) / "answers.jsonl", concurrency=concurrency)  # type: ignore[arg-type]
        get = asyncio.to_thread
        async with build_chat_model(spec_of(server)) as model:
            job = model.batch_job(request)
            await get(server.get, f"capacity/{PHASES[0]}")
            running_job = asyncio.create_task(job.run())
            while not job.tally.in_flight:
                await asyncio.sleep(0.01)
            await get(server.get, "counts")
            for capacity in PHASES:
                await get(server.get, f"capacity/{capacity}")
                await asyncio.sleep(seconds / 2)
                early = await get(server.get, "counts")
                await asyncio.sleep(seconds / 2)
                late = await get(server.get, "counts")
                answered = early["answered"] + late["answered"]
                refused_late = late["refused"] / max(late["answered"] + late["refused"], 1)
                phases.append({"capacity": capacity, "rate": answered / seconds, "refused_late": refused_late})
            failed = job.tally.failed
            job.stop()
            running_job.cancel()
            await asyncio.gather(running_job, return_exceptions=True)
    return [*phases, {"failed_rows": failed}]


def in_a_process(server: RunningServer, concurrency: int | str, seconds: float) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.concurrency", "--contend", server.url, str(concurrency)]
    done = subprocess.run([*command, "--seconds", str(seconds)], stdout=subprocess.PIPE, check=True)
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--contend", nargs=2, metavar=("URL", "N"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.contend:
        logging.getLogger("llm_fallback").setLevel(logging.CRITICAL)
        url, word = asked.contend
        concurrency = word if word == "auto" else int(word)
        json.dump(asyncio.run(contend(RunningServer(url), concurrency, asked.seconds)), sys.stdout)
        return
    results = {}
    for concurrency in ("auto", *FIXED):
        with running("capacity", "1") as server:
            results[concurrency] = in_a_process(server, concurrency, asked.seconds)
    best = [max(results[fixed][number]["rate"] for fixed in FIXED) for number in range(len(PHASES))]
    ideal = [capacity / Capacity.MEAN_S for capacity in PHASES]
    rows = [
        (
            str(concurrency),
            *(f"{phase['rate']:.0f}/s, {phase['refused_late']:.1%} refused" for phase in found[: len(PHASES)]),
            str(found[-1]["failed_rows"]),
        )
        for concurrency, found in results.items()
    ]
    print(table(("rows under way", *(f"capacity {size}" for size in PHASES), "rows failed"), rows))
    shares = [results["auto"][number]["rate"] / best[number] for number in range(len(PHASES))]
    print("auto, of the best fixed:", ", ".join(f"{share:.0%}" for share in shares))
    print("the server could have answered:", ", ".join(f"{rate:.0f}/s" for rate in ideal))


if __name__ == "__main__":
    main()
