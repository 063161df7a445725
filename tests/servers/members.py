"""Processes that call a model and note what came of it: `python -m tests.servers.members '{"spec": ..., ...}'`.

All are forked from one that has loaded the library. Each writes a line of JSON for each of its calls, with times of
`time.monotonic()`, which on one machine all processes share.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from tests.servers.process import until

ROOT = Path(__file__).parents[2]


@dataclass
class Members:
    """Processes under way, as the test sees them."""

    leader: subprocess.Popen[str]
    folder: Path
    pids: list[int] = field(default_factory=list)

    @classmethod
    def start(cls, folder: Path, **work: Any) -> Members:
        """`work` is what `Work` holds. Returns when all have begun to call."""
        folder.mkdir()
        command = [sys.executable, "-W", "ignore", "-m", "tests.servers.members", json.dumps(work), str(folder)]
        leader = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        members = cls(leader, folder)
        assert leader.stdout is not None
        members.pids = [int(leader.stdout.readline()) for _ in range(work["processes"])]
        until(lambda: len(members.lines("begun")) == work["processes"], 120)
        return members

    def wait(self) -> None:
        """Until all have ended, or were killed."""
        self.leader.wait(180)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """What all have noted of that kind, in the order of time."""
        noted = [
            {**json.loads(line), "process": int(path.stem)}
            for path in self.folder.glob("*.jsonl")
            for line in path.read_text().splitlines()
            if line.endswith("}")  # A process that was killed may leave half of one.
        ]
        return sorted((line for line in noted if line["kind"] == kind), key=lambda line: line["at"])

    def requests(self, deployment: str) -> list[dict[str, Any]]:
        """Requests to one deployment, with the time each was begun."""
        sent = [
            {**attempt, "at": call["at"] + attempt["started_at"], "process": call["process"]}
            for call in self.lines("call")
            for attempt in call["attempts"]
            if attempt["deployment"] == deployment
        ]
        return sorted(sent, key=lambda request: request["at"])


@dataclass
class Work:
    """What each process is to do."""

    spec: Mapping[str, Any]
    processes: int
    seconds: float
    calls_per_s: float
    sick: int = -1
    """The process that gets to no server but the backup."""
    environment_of_sick: Mapping[str, str] = field(default_factory=dict)
    begin_s: float = 2.0
    """Seconds from its start to its first call."""


async def call_on(work: Work, number: int, file: TextIO) -> None:
    from llm_fallback import build_chat_model
    from llm_fallback.events import BreakerOpened, CallEnded, Event

    rng = random.Random(number)

    def note(kind: str, **what: Any) -> None:
        print(json.dumps({"kind": kind, "at": time.monotonic(), **what}), file=file, flush=True)

    class Log(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "fleet" in record.getMessage():
                note("log", text=record.getMessage())

    logging.getLogger("llm_fallback").addHandler(Log())

    def listen(event: Event) -> None:
        if isinstance(event, BreakerOpened):
            note("opened", deployment=event.deployment)
        elif isinstance(event, CallEnded):
            attempts = [
                {"deployment": it.deployment, "started_at": it.started_at, "failure": it.failure}
                for it in event.record.attempts
            ]
            began = time.monotonic() - event.record.latency_s
            took_s, error = event.record.latency_s, event.failure
            line = {"kind": "call", "at": began, "took_s": took_s, "error": error, "attempts": attempts}
            print(json.dumps(line), file=file, flush=True)

    model = build_chat_model(work.spec, listeners=[listen])
    await asyncio.sleep(work.begin_s)
    note("begun", cpu_s=time.process_time(), wakeups=wakeups())
    end = time.monotonic() + work.seconds
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < end:
            await asyncio.sleep(rng.expovariate(work.calls_per_s) if work.calls_per_s else work.seconds)
            if work.calls_per_s:
                group.create_task(asked(model))
    fleet = model.state()["fleet"]
    note(
        "ended", cpu_s=time.process_time(), wakeups=wakeups(), fleet=fleet, breaker=model.state()["primary"]["breaker"]
    )
    await model.aclose()
    await asyncio.sleep(0.5)  # It leaves the fleet in the background.


def wakeups() -> int:
    """How often a thread of this process has waited for something and gone on."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw


async def asked(model: Any) -> None:
    from llm_fallback import LLMFallbackError

    with suppress(LLMFallbackError):  # The event has it.
        await model.ainvoke("hi")


def main(work: Work, folder: Path) -> None:
    import llm_fallback.litellm_adapter.chat_model

    del llm_fallback
    children = []
    for number in range(work.processes):
        pid = os.fork()
        if pid == 0:
            if number == work.sick:
                os.environ.update(work.environment_of_sick)
            with (folder / f"{number}.jsonl").open("a") as file:
                asyncio.run(call_on(work, number, file))
            os._exit(0)  # What litellm has loaded takes each a second to take down.
        print(pid, flush=True)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)


def _windows(times: list[float], length_s: float) -> Iterator[int]:
    begin = 0
    for index, at in enumerate(times):
        while at - times[begin] >= length_s:
            begin += 1
        yield index - begin + 1


def most_within(times: list[float], length_s: float) -> int:
    """The most of these times in any window of that length."""
    return max(_windows(times, length_s), default=0)


if __name__ == "__main__":
    main(Work(**json.loads(sys.argv[1])), Path(sys.argv[2]))
