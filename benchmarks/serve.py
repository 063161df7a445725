"""`llm-fallback serve` beside the LiteLLM proxy, over the same server on loopback.

    python -m benchmarks.serve --python ENV/bin/python [--quick]

ENV is an environment with `litellm[proxy]`, where both run, each as one process: same interpreter, same uvicorn, uvloop
and litellm. For ours, this checkout is on its path. Both want a key, and both have the same two deployments and fall
back from the first to the second.

In every round each has one turn per case, and the order changes. CPU is what the operating system says of the server's
process; requests a second per core are 1 / CPU, which is what a server can give that has a core for itself; requests a
second and percentiles are by the clock, on a machine that also runs the client and the upstream server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import yaml
from aiohttp import web

from benchmarks.tables import table, times

KEY = "sk-0123456789abcdef0123456789abcdef"
AT_ONCE = 50
CHUNKS = 50
GOAL_SPEED, GOAL_P99 = 6.0, 0.25
OURS, PROXY = "llm-fallback serve", "LiteLLM proxy"
HEAD = {"id": "chatcmpl-1", "created": 1, "model": "m"}
USAGE = {"prompt_tokens": 12, "completion_tokens": CHUNKS, "total_tokens": 12 + CHUNKS}


@dataclass(frozen=True)
class Case:
    """What is asked: which model, streamed or not, how often in one turn by ours and by the proxy."""

    name: str
    model: str
    streamed: bool
    requests: dict[str, int]


CASES = (
    Case("plain", "healthy", False, {OURS: 1000, PROXY: 200}),
    Case("plain, primary answers 503", "failing", False, {OURS: 1000, PROXY: 200}),
    Case("50 chunks", "healthy", True, {OURS: 300, PROXY: 100}),
    Case("50 chunks, primary answers 503", "failing", True, {OURS: 300, PROXY: 100}),
)


@dataclass(frozen=True)
class Turn:
    """What one turn of one contestant came to."""

    cpu_ms: float
    per_second: float
    p50_ms: float
    p99_ms: float
    wrong: int


# The upstream server, in a process of its own.


async def answer(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    if request.match_info["deployment"] == "dead":
        error = {"message": "The engine is busy.", "type": "Service Unavailable", "param": None, "code": 503}
        return web.json_response({"error": error}, status=503)
    if not body.get("stream"):
        message = {"role": "assistant", "content": "word " * CHUNKS}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({**HEAD, "object": "chat.completion", "choices": [choice], "usage": USAGE})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    deltas: list[tuple[dict[str, str], str | None]] = [({"content": "word "}, None)] * CHUNKS
    for delta, finish in [*deltas, ({}, "stop")]:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        await response.write(event({"choices": choices}))
    await response.write(event({"choices": [], "usage": USAGE}) + b"data: [DONE]\n\n")
    await response.write_eof()
    return response


def event(document: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps({**HEAD, "object": "chat.completion.chunk", **document}).encode() + b"\n\n"


def upstream(port: int) -> None:
    app = web.Application()
    app.router.add_post("/{deployment}/v1/chat/completions", answer)
    web.run_app(app, host="127.0.0.1", port=port, print=None, access_log=None)


# The contestants.


def our_spec(port: int) -> dict[str, Any]:
    def deployment(name: str) -> dict[str, Any]:
        base = f"http://127.0.0.1:{port}/{name}"
        # Without a breaker, so that each request meets the failure, as each of the proxy's does.
        return {"backend": "openai-compatible", "model": "m", "api_base": base, "breaker": "off"}

    return {
        "deployments": {"dead": deployment("dead"), "good": deployment("good")},
        "chains": {"healthy": {"tiers": ["good"]}, "failing": {"tiers": ["dead", "good"]}},
        "default_chain": "healthy",
        "serve": {"keys": [KEY]},
    }


def proxy_config(port: int) -> dict[str, Any]:
    def row(name: str, deployment: str) -> dict[str, Any]:
        base = f"http://127.0.0.1:{port}/{deployment}/v1"
        return {"model_name": name, "litellm_params": {"model": "openai/m", "api_base": base, "api_key": "sk-none"}}

    return {
        "model_list": [row("healthy", "good"), row("failing", "dead")],
        "router_settings": {"num_retries": 0, "disable_cooldowns": True, "fallbacks": [{"failing": ["healthy"]}]},
        "litellm_settings": {"telemetry": False},
        "general_settings": {"master_key": KEY},
    }


@contextmanager
def running(command: Sequence[str], url: str, **environment: str) -> Iterator[int]:
    """A process that answers at the url; its number."""
    with tempfile.TemporaryFile() as log:
        settings = {**os.environ, **environment}
        process = subprocess.Popen(command, env=settings, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(1200):
                if process.poll() is not None:
                    log.seek(0)
                    raise RuntimeError(log.read()[-2000:].decode())
                try:
                    httpx.get(url, timeout=5)
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            yield process.pid
        finally:
            process.kill()
            process.wait()


@contextmanager
def contestants(python: str, folder: Path) -> Iterator[dict[str, tuple[str, int]]]:
    """Address and process of each."""
    source = Path(__file__).parents[1] / "src"
    ours, theirs = folder / "llm-fallback.yaml", folder / "proxy.yaml"
    first = 8411
    ours.write_text(yaml.safe_dump(our_spec(first)))
    theirs.write_text(yaml.safe_dump(proxy_config(first)))
    urls = {OURS: f"http://127.0.0.1:{first + 1}", PROXY: f"http://127.0.0.1:{first + 2}"}
    serve = [python, "-m", "llm_fallback.cli", "serve", "-f", str(ours), "--port", str(first + 1)]
    proxy = [str(Path(python).with_name("litellm")), "--config", str(theirs), "--host", "127.0.0.1"]
    local = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    with ExitStack() as stack:
        own = [sys.executable, "-m", "benchmarks.serve", "--upstream", str(first)]
        stack.enter_context(running(own, f"http://127.0.0.1:{first}/"))
        number = stack.enter_context(running(serve, urls[OURS], PYTHONPATH=str(source), **local))
        theirs_number = stack.enter_context(
            running([*proxy, "--port", str(first + 2), "--num_workers", "1"], urls[PROXY], **local)
        )
        yield {OURS: (urls[OURS], number), PROXY: (urls[PROXY], theirs_number)}


# Asking.


def cpu_s(process: int) -> float:
    """Seconds of CPU of a process and of those it waited for."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


async def turn(url: str, process: int, case: Case, requests: int) -> Turn:
    body = {"model": case.model, "messages": [{"role": "user", "content": "How are you?"}], "stream": case.streamed}
    headers = {"authorization": f"Bearer {KEY}"}
    seconds: list[float] = []
    wrong = 0
    left = iter(range(requests))
    end = b"data: [DONE]" if case.streamed else b'"choices"'
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:

        async def ask() -> None:
            nonlocal wrong
            for _ in left:
                began = time.perf_counter()
                async with session.post(f"{url}/v1/chat/completions", json=body) as reply:
                    said = await reply.read()
                seconds.append(time.perf_counter() - began)
                wrong += reply.status != 200 or end not in said

        before, began = cpu_s(process), time.perf_counter()
        await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
        took = time.perf_counter() - began
        cpu = cpu_s(process) - before
    seconds.sort()
    return Turn(
        cpu_ms=cpu / requests * 1000,
        per_second=requests / took,
        p50_ms=seconds[len(seconds) // 2] * 1000,
        p99_ms=seconds[int(len(seconds) * 0.99)] * 1000,
        wrong=wrong,
    )


def measure(python: str, rounds: int) -> dict[tuple[str, str], list[Turn]]:
    turns: dict[tuple[str, str], list[Turn]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, contestants(python, Path(folder)) as servers:
        for number in range(rounds + 1):
            for case in CASES:
                order = [OURS, PROXY] if number % 2 else [PROXY, OURS]
                for name in order:
                    requests = case.requests[name] if number else 2 * AT_ONCE
                    result = asyncio.run(turn(*servers[name], case, requests))
                    if number:  # The first round warms up.
                        turns[case.name, name].append(result)
    return turns


def median(turns: Sequence[Turn], field: str) -> float:
    return float(statistics.median(getattr(turn, field) for turn in turns))


def report(turns: dict[tuple[str, str], list[Turn]]) -> str:
    rows = []
    for case in CASES:
        for name in (OURS, PROXY):
            own = turns[case.name, name]
            cpu = median(own, "cpu_ms")
            cells = [f"{cpu:.2f}", f"{1000 / cpu:.0f}", f"{median(own, 'per_second'):.0f}"]
            waits = [f"{median(own, field):.0f}" for field in ("p50_ms", "p99_ms")]
            rows.append([f"{case.name}: {name}", *cells, *waits, str(sum(turn.wrong for turn in own))])
    head = ["", "CPU ms a request", "requests/s per core", "requests/s", "p50 ms", "p99 ms", "wrong"]
    goals = []
    for case in CASES:
        ours, theirs = turns[case.name, OURS], turns[case.name, PROXY]
        speeds = [their.cpu_ms / own.cpu_ms for own, their in zip(ours, theirs, strict=True)]
        tails = [own.p99_ms / their.p99_ms for own, their in zip(ours, theirs, strict=True)]
        speed, tail = statistics.median(speeds), statistics.median(tails)
        kept = "kept" if speed >= GOAL_SPEED and tail <= GOAL_P99 else "MISSED"
        goals.append([case.name, times(speed), times(tail), kept])
    verdict = table(["", "requests/s per core, ours / theirs", "p99, ours / theirs", f"≥ {GOAL_SPEED:g}, ≤ 1/4"], goals)
    return f"{table(head, rows)}\n\n{verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="of an environment with litellm[proxy]")
    parser.add_argument("--quick", action="store_true", help="one round instead of three")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream is not None:
        upstream(options.upstream)
    else:
        print(report(measure(options.python, 1 if options.quick else 3)))


if __name__ == "__main__":
    main()
