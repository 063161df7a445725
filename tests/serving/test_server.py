"""`llm-fallback serve` as a process: its drain, its reload, its workers, and OpenAI's clients before it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llm_fallback.serving.app import ServedChains
from llm_fallback.serving.server import DrainingServer, listen
from llm_fallback.testing import FakeServer, Reply, fake_chat_model
from tests.serving.running import question

pytestmark = pytest.mark.slow

PATH = "/v1/chat/completions"
SLOW = Reply("word " * 30, chunks=30, chunk_delay_s=0.1)


class Served:
    """The command under way."""

    def __init__(self, process: subprocess.Popen[str], url: str, spec: Path) -> None:
        self.process, self.url, self.spec = process, url, spec
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said += self.process.stderr

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        code = self.process.wait(60)
        self._reader.join(10)
        return code


@contextmanager
def serving(spec: dict[str, Any], folder: Path, *options: str) -> Iterator[Served]:
    """The command over a spec, from the moment it is up."""
    file = folder / "llm-fallback.yaml"
    file.write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "llm_fallback.cli", "serve", "-f", str(file), "--port", "0", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert process.stderr is not None
        address = next(found[1] for line in process.stderr if (found := re.search(r" at (http://\S+)/v1", line)))
        assert httpx.get(f"{address}/health", timeout=1).status_code == 200  # Said once it is so.
        yield Served(process, address, file)
    finally:
        process.kill()
        process.wait()


def eventually(is_so: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline, "it stayed otherwise"
        time.sleep(0.02)


def is_up(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def stream_of(url: str) -> Generator[dict[str, Any], None, None]:
    """The events of a stream; the generator is under way once its first came."""
    with httpx.stream("POST", url + PATH, json=question(stream=True), timeout=60) as reply:
        assert reply.status_code == 200
        for line in reply.iter_lines():
            if line and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "two workers"])
def test_on_sigterm_streams_end_and_new_requests_are_sent_elsewhere(options: tuple[str, ...], tmp_path: Path) -> None:
    """Whoever reads gets all of it and the facts; a connection that was open gets 503; then it exits with 0."""
    with FakeServer({"only": SLOW}) as fake, serving(fake.spec(), tmp_path, *options) as served:
        with httpx.Client() as kept:
            # To which of two processes a connection leads is chance; each of them is asked about itself.
            assert kept.get(f"{served.url}/health").status_code == 200
            chunks = stream_of(served.url)
            first = next(chunks)
            served.signal(signal.SIGTERM)
            if not options:
                eventually(lambda: kept.get(f"{served.url}/ready").status_code == 503)
                refused = kept.post(served.url + PATH, json=question())
                assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            rest = list(chunks)
        assert served.wait() == 0
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in (first, *rest))
    assert text == SLOW.text
    assert rest[-1]["llm_fallback"]["deployment"] == "only"


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    """For whoever cannot wait."""
    endless = Reply("word " * 300, chunks=300, chunk_delay_s=0.1)
    with FakeServer({"only": endless}) as fake, serving(fake.spec(), tmp_path) as served:
        chunks = stream_of(served.url)
        next(chunks)
        served.signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{served.url}/ready").status_code == 503)
        began = time.monotonic()
        served.signal(signal.SIGTERM)
        served.wait()
        assert time.monotonic() - began < 10
        chunks.close()


@pytest.mark.parametrize("is_busy", [True, False], ids=["with a stream under way", "at rest"])
@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "two workers"])
def test_two_signals_in_a_row_end_it_without_a_traceback(
    options: tuple[str, ...], is_busy: bool, tmp_path: Path
) -> None:
    """As from a supervisor that repeats itself."""
    endless = Reply("word " * 300, chunks=300, chunk_delay_s=0.1)
    with FakeServer({"only": endless}) as fake, serving(fake.spec(), tmp_path, *options) as served:
        chunks = stream_of(served.url)
        if is_busy:
            next(chunks)
        served.signal(signal.SIGTERM)
        time.sleep(0.05)
        served.signal(signal.SIGTERM)
        assert served.wait() == 0
    assert [line for line in served.said if " INFO draining" not in line] == []


async def test_a_process_says_that_it_serves_once_it_does() -> None:
    """Not while its model is built, nor before its server has started."""
    with contextlib.closing(listen("127.0.0.1", 0)) as listener:
        started: list[bool] = []

        def announce() -> None:
            started.append(server.started)
            server.should_exit = True

        server = DrainingServer(ServedChains(fake_chat_model()), [], announce)
        await server._serve([listener])
    assert started == [True]


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "two workers"])
def test_what_cannot_be_built_is_never_said_to_be_served(options: tuple[str, ...], tmp_path: Path) -> None:
    """By any of the processes; the error is told."""
    spec = {
        "deployments": {"only": {"backend": "vllm", "model": "qwen", "api_base": "${NO_SUCH_VARIABLE}"}},
        "chains": {"main": {"tiers": ["only"]}},
    }
    (tmp_path / "llm-fallback.yaml").write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "llm_fallback.cli", "serve", "--port", "0", *options]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert "NO_SUCH_VARIABLE is not set" in process.stderr
    assert "serving" not in process.stderr


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "two workers"])
def test_on_sighup_it_reads_its_spec_again(options: tuple[str, ...], tmp_path: Path) -> None:
    """A stream that was begun is not disturbed; a wrong spec changes nothing and is told."""
    with FakeServer({"only": SLOW}) as fake, serving(fake.spec(), tmp_path, *options) as served:

        def models() -> set[tuple[str, ...]]:
            asked = [httpx.get(f"{served.url}/v1/models").json()["data"] for _ in range(8)]
            return {tuple(row["id"] for row in rows) for rows in asked}

        chunks = stream_of(served.url)
        first = next(chunks)
        spec = fake.spec()
        spec["chains"]["further"], spec["default_chain"] = {"tiers": ["only"]}, "default"
        served.spec.write_text(yaml.safe_dump(spec))
        served.signal(signal.SIGHUP)
        eventually(lambda: models() == {("default", "further")})
        served.spec.write_text("chains: 5")
        served.signal(signal.SIGHUP)
        eventually(lambda: "the spec stays as it was" in "".join(served.said))
        assert models() == {("default", "further")}
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in (first, *chunks))
    assert text == SLOW.text


def test_workers_count_together_and_a_dead_one_is_replaced(tmp_path: Path) -> None:
    """Whoever is asked for metrics tells those of all; nothing of the dead one's counts is lost."""
    with FakeServer({"only": "fine"}) as fake, serving(fake.spec(), tmp_path, "--workers", "2") as served:

        def counted() -> float:
            text = httpx.get(f"{served.url}/metrics").text
            found = re.search(r'llm_fallback_calls_total{[^}]*outcome="succeeded"} (\S+)', text)
            return 0 if found is None else float(found[1])

        def ask(times: int) -> None:
            for _ in range(times):
                assert httpx.post(served.url + PATH, json=question(), timeout=60).status_code == 200

        def children() -> set[int]:
            listed = subprocess.run(
                ["ps", "-o", "pid=,args=", "--ppid", str(served.process.pid)], capture_output=True, text=True
            ).stdout
            return {int(line.split()[0]) for line in listed.splitlines() if "spawn_main" in line}

        ask(10)
        assert counted() == 10
        before = children()
        assert len(before) == 2
        os.kill(min(before), signal.SIGKILL)
        eventually(lambda: len(children() - before) == 1 and is_up(served.url))
        ask(10)
        eventually(lambda: counted() == 20)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """Killed, it can tell them nothing."""
    with FakeServer({"only": "fine"}) as fake, serving(fake.spec(), tmp_path, "--workers", "2") as served:
        served.signal(signal.SIGKILL)
        eventually(lambda: not is_up(served.url))


def test_without_keys_it_listens_on_this_machine_alone_and_says_so(tmp_path: Path) -> None:
    """Whatever host is asked for."""
    spec_server = FakeServer({"only": "fine"})
    with spec_server as fake, serving(fake.spec(), tmp_path, "--host", "0.0.0.0") as served:
        assert served.url.startswith("http://127.0.0.1:")
        assert httpx.post(served.url + PATH, json=question(), timeout=60).status_code == 200
