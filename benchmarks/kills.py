"""A batch killed -9 at random moments and gone on with: what is lost, what stands twice, what is asked again?

    python -m benchmarks.kills [--rows 100000] [--kills 50] [--format jsonl] [--json]

The server fails as in `benchmarks.chaos`, so that rows are killed in every state: between two attempts, in a hedge of
time limits, at the end. With `--kills 0` it is the memory and the pace of one undisturbed run.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.chat_server import RunningServer, answer_to, running
from benchmarks.crowd import resident_kb
from llm_fallback import build_chat_model

CONCURRENCY = 64
ATTEMPT_S = 5.0


def spec_of(server: RunningServer) -> dict[str, Any]:
    deployments = {
        name: {"backend": "vllm", "model": name, "api_base": f"{server.url}/{name}", "price": "free"}
        for name in ("one", "two", "good")
    }
    timeouts = {"total_s": 60, "attempt_s": ATTEMPT_S}
    return {"deployments": deployments, "chains": {"main": {"tiers": list(deployments), "timeouts": timeouts}}}


def write_source(path: Path, rows: int) -> None:
    with path.open("w", newline="") as file:
        if path.suffix == ".csv":
            writer = csv.writer(file)
            writer.writerow(["id", "prompt"])
            writer.writerows([f"id-{number}", f"question {number}"] for number in range(rows))
        else:
            for number in range(rows):
                file.write(f'{{"id": "id-{number}", "prompt": "question {number}"}}\n')


class Target:
    """The lines of a target as they come; read once, whatever else is done to it."""

    def __init__(self, path: Path) -> None:
        self._path, self._read_to = path, 0
        self.rows: set[int] = set()
        self.lines = self.wrong = 0

    def read(self) -> None:
        """Read the whole lines that have come."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read_to)
            for line in iter(file.readline, b""):
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                row = json.loads(line)
                self.lines += 1
                self.wrong += row["answer"] not in (None, answer_to(row["prompt"]))
                self.rows.add(row["row"])


def fork_batch(server: RunningServer, source: Path, target: Path, report: Path) -> int:
    """A child that runs the batch; its process id. What is imported, it has already."""
    child = os.fork()
    if child:
        return child
    before = resident_kb()
    code = 1
    try:
        with build_chat_model(spec_of(server)) as model:
            result = model.batch_file(source, target, concurrency=CONCURRENCY)
        status = Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) - before
        usage = resource.getrusage(resource.RUSAGE_SELF)
        report.write_text(json.dumps({**result, "peak_mb": peak / 1024, "cpu_s": usage.ru_utime + usage.ru_stime}))
        code = 0
    finally:
        os._exit(code)


def thresholds(rows: int, kills: int) -> Iterator[int]:
    """After how many answers each kill comes."""
    yield from sorted(random.Random(7).sample(range(rows), kills))


def killed(server: RunningServer, source: Path, target: Path, report: Path, kills: int, rows: int) -> dict[str, Any]:
    """Run the batch, killed so often, to its end; count what became of its rows."""
    found, rng = Target(target), random.Random(8)
    in_flight_at_kills, asked_rows, asked_again, began = [], set[int](), 0, time.monotonic()
    for threshold in (*thresholds(rows, kills), None):
        child = fork_batch(server, source, target, report)
        if threshold is not None:
            while found.lines < threshold:
                time.sleep(0.02)
                found.read()
                assert os.waitpid(child, os.WNOHANG) == (0, 0), "a run failed"
            time.sleep(rng.uniform(0, 0.1))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert threshold is not None or status == 0, "the last run failed"
        found.read()
        asked = set(server.get("asked"))
        asked_again += len(asked & asked_rows)
        asked_rows |= asked
        in_flight_at_kills.append(len(asked - found.rows))
    result = json.loads(report.read_text())
    return {
        "rows": rows,
        "kills": kills,
        "lost": rows - len(found.rows),
        "doubled": found.lines - len(found.rows),
        "wrong": found.wrong,
        "asked_again": asked_again,
        "most_in_flight_at_a_kill": max(in_flight_at_kills),
        "in_flight_at_kills": sum(in_flight_at_kills),
        "concurrency": CONCURRENCY,
        "answered": result["answered"],
        "failed": result["failed"],
        "peak_mb_over_import": round(result["peak_mb"], 1),
        "cpu_s_of_last_run": round(result["cpu_s"], 1),
        "seconds": round(time.monotonic() - began, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--format", choices=["jsonl", "csv"], default="jsonl")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, running("chaos", "1") as server:
        source, target = Path(folder) / f"questions.{asked.format}", Path(folder) / "answers.jsonl"
        write_source(source, asked.rows)
        outcome = killed(server, source, target, Path(folder) / "report.json", asked.kills, asked.rows)
    if asked.json:
        json.dump(outcome, sys.stdout)
    else:
        for name, value in outcome.items():
            print(f"{name.replace('_', ' '):28} {value}")


if __name__ == "__main__":
    logging.getLogger("llm_fallback").setLevel(logging.ERROR)
    # Imported before the first fork, so that no child has to.
    with build_chat_model(spec_of(RunningServer("http://127.0.0.1:9"))):
        main()
