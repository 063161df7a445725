"""Our own chains, served by Ray: a rollout that no stream notices, and each replica's word for its chains."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llm_fallback.testing import Fail, FakeServer, Reply
from tests.servers.install import INSIDE, Home
from tests.servers.process import HOST, KEY, Process, free_port, until
from tests.servers.systems import SYSTEMS, selected

pytestmark = [
    pytest.mark.servers,
    pytest.mark.skipif(SYSTEMS["ray-serve"] not in selected(), reason="is for SYSTEMS=ray-serve"),
]

SOURCE = Path(__file__).parents[2] / "src"
COUNTED = "word " * 60
"""For three seconds: longer than it takes to begin the replacement of a replica."""


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeServer]:
    with FakeServer({"primary": Fail(503), "backup": Reply(COUNTED, chunks=60, chunk_delay_s=0.05)}) as server:
        yield server


@pytest.fixture(scope="module")
def spec(fake: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ray") / "llm-fallback.yaml"
    file.write_text(yaml.safe_dump({**fake.spec(), "default_chain": "default", "serve": {"keys": [KEY]}}))
    return file


@pytest.fixture(scope="module")
def url(spec: Path) -> Iterator[tuple[str, Process]]:
    port = free_port()
    home, system = Home("ray-serve"), SYSTEMS["ray-serve"]
    command: list[str | Path] = [home.bin / "python", INSIDE / "chains_on_ray.py", str(port), spec]
    log = spec.with_name("ray.log")
    process = Process(command, {**system.environment, "PYTHONPATH": str(SOURCE)}, log)
    try:
        process.await_answer(f"http://{HOST}:{port}/ready")
        yield f"http://{HOST}:{port}", process
    except BaseException:
        print(log.read_text(errors="replace")[-4000:])
        raise
    finally:
        process.end()


def streamed(url: str) -> list[Any]:
    """The events of one stream."""
    body = {"messages": [{"role": "user", "content": "Count, please."}], "stream": True}
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, headers=headers, timeout=60) as reply:
        assert reply.status_code == 200, reply.read()
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_a_chain_answers_from_a_replica_and_asks_for_a_key(url: tuple[str, Process]) -> None:
    """By way of Ray's proxy."""
    address, _ = url
    *chunks, last = streamed(address)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == COUNTED
    assert last["llm_fallback"]["deployment"] == "backup"
    assert httpx.get(f"{address}/v1/models", timeout=30).status_code == 401


def test_a_client_that_leaves_ends_the_request_behind_the_replica(url: tuple[str, Process], fake: FakeServer) -> None:
    """Ray hands its departure on."""
    address, _ = url
    body = {"messages": [{"role": "user", "content": "Count, please."}], "stream": True}
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, headers=headers, timeout=60) as reply:
        next(reply.iter_lines())
    until(lambda: fake.received("backup")[-1].client_gone_at is not None, 30)


def test_a_rollout_loses_no_stream_and_brings_the_new_spec(url: tuple[str, Process], spec: Path) -> None:
    """What was begun on a replica that goes ends on it, whole; what comes is begun on a new one."""
    address, process = url
    rolled_out = threading.Event()
    streams: list[list[Any]] = []
    failures: list[BaseException] = []

    def read_until_rolled_out() -> None:
        while not rolled_out.is_set():
            try:
                streams.append(streamed(address))
            except BaseException as error:
                failures.append(error)

    def models() -> set[str]:
        rows = httpx.get(f"{address}/v1/models", headers={"authorization": f"Bearer {KEY}"}, timeout=30).json()["data"]
        return {row["id"] for row in rows}

    threads = [threading.Thread(target=read_until_rolled_out) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: streams, 60)
    document = yaml.safe_load(spec.read_text())
    document["chains"]["further"] = {"tiers": ["backup"]}
    spec.write_text(yaml.safe_dump(document))
    process.signal(signal.SIGHUP)
    # Of two replicas, eight answers in a row are hardly by one.
    until(lambda: all("further" in models() for _ in range(8)), 240)
    rolled_out.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(streams) >= len(threads)
    for stream in streams:
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in stream) == COUNTED
