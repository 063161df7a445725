"""Engines that run many processes, as the pages in docs/guides/processes have it: one behaves as all of them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from llm_fallback.testing import Fail, FakeServer
from tests.servers.install import Home, is_installed, redis_servers
from tests.servers.process import HOST, Process, answers, free_port, until
from tests.servers.redis_server import Redis
from tests.servers.systems import SYSTEMS, selected

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PROCESSES, RAY = Home("processes"), Home("ray-serve")
on_processes = pytest.mark.skipif(
    not is_installed("processes") or "processes" not in os.environ.get("SYSTEMS", "processes"),
    reason="is for SYSTEMS=processes",
)
on_ray = pytest.mark.skipif(SYSTEMS["ray-serve"] not in selected(), reason="is for SYSTEMS=ray-serve")
pytestmark = pytest.mark.servers

HEARD_S = 1.0
"""Four exchanges, after which each process has heard what another has met."""


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """The first deployment takes nobody's key, which is a fact for all."""
    with FakeServer({"own": Fail(401), "other": "fine"}) as server:
        yield server


@pytest.fixture
def page(fake: FakeServer, tmp_path: Path) -> Iterator[Page]:
    if not redis_servers():
        pytest.skip("there is no redis-server: make test-servers SYSTEMS=redis installs one")
    (tmp_path / "redis").mkdir()
    redis = Redis(redis_servers()[0], tmp_path / "redis")
    variables = {"REDIS_URL": redis.url, "GPU_A_URL": fake.base("own"), "GPU_B_URL": fake.base("other")}
    page = Page(tmp_path / "app", variables)
    yield page
    page.end()
    redis.client.close()
    redis.stop()


class Page:
    """A page's files in a folder, and its commands."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder, self._variables = folder, variables
        self._running: list[Process] = []

    def read(self, name: str) -> list[str]:
        """Write its files, and return its commands."""
        self.folder.mkdir()
        commands: list[str] = []
        for language, text in _BLOCK.findall((ROOT / f"docs/guides/processes/{name}.md").read_text(encoding="utf-8")):
            if language == "console":
                commands += [line.removeprefix("$ ") for line in text.splitlines()]
            else:
                file = "langgraph.json" if language == "json" else text.splitlines()[0].removeprefix("# ")
                (self.folder / file).write_text(text, encoding="utf-8")
        return commands

    def environment(self, home: Home) -> dict[str, str]:
        path = f"{home.bin}{os.pathsep}{os.environ['PATH']}"
        paths = f"{ROOT / 'src'}{os.pathsep}{self.folder}"
        return {**self._variables, "PATH": path, "PYTHONPATH": paths, "PWD": str(self.folder)}

    def start(self, home: Home, command: str, port: int = 8000, **variables: str) -> None:
        """Begin a command of the page, at another port than it says."""
        program, *arguments = shlex.split(command.replace("8000", str(port)))
        in_folder = ["sh", "-c", 'cd "$0" && exec "$@"', self.folder, home.bin / program, *arguments]
        environment = {**self.environment(home), **variables}
        self._running.append(Process(in_folder, environment, self.folder.parent / f"{program}.log"))

    def run(self, home: Home, command: str) -> str:
        """What a command of the page prints."""
        program, *arguments = shlex.split(command)
        done = subprocess.run(
            [home.bin / program, *arguments],
            cwd=self.folder,
            env={**os.environ, **self.environment(home)},
            stdout=subprocess.PIPE,
            text=True,
            timeout=300,
            check=True,
        )
        return done.stdout

    def logs(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-3000:] for log in self.folder.parent.glob("*.log"))

    def end(self) -> None:
        for process in self._running:
            process.end()


def until_two_have_answered(ask: Callable[[], list[dict[str, Any]]], fake: FakeServer) -> None:
    """The first to be asked meets the wrong key; all know then, and whoever is asked does not ask again."""
    (first,) = ask()[:1]
    assert (first["answer"], first["by"]) == ("fine", "other")
    time.sleep(HEARD_S)
    workers = {first["worker"]}

    def answer() -> bool:
        workers.update(reply["worker"] for reply in ask())
        return len(workers) == 2

    until(answer, 120)
    assert len(fake.received("own")) == 1


@on_processes
@pytest.mark.parametrize("command", [0, 1], ids=["gunicorn", "uvicorn"])
def test_workers_of_gunicorn_and_uvicorn(command: int, page: Page, fake: FakeServer) -> None:
    """One of two has met a wrong key; the other knows."""
    port = free_port()
    page.start(PROCESSES, page.read("gunicorn")[command], port)
    url = f"http://{HOST}:{port}"
    until(lambda: answers(f"{url}/openapi.json"), 120)
    time.sleep(2 * HEARD_S)  # Both have begun.

    def ask() -> list[dict[str, Any]]:
        return [httpx.get(f"{url}/answer", params={"question": "Good night."}, timeout=60).json()]

    until_two_have_answered(ask, fake)


@on_processes
def test_children_of_celery(page: Page, fake: FakeServer) -> None:
    """Each is ready with what the others know before its first task."""
    worker, client = page.read("celery")
    page.start(PROCESSES, worker, C_FORCE_ROOT="1")
    questions = iter(["'Good night.'", *["one two three four five six seven eight"] * 50])
    program = client.partition(" ask.py")[0]
    until_two_have_answered(lambda: json.loads(page.run(PROCESSES, f"{program} ask.py {next(questions)}")), fake)


@on_processes
def test_replicas_of_the_langgraph_server(page: Page, fake: FakeServer) -> None:
    """Two servers of the same graph: what one has met, the other knows."""
    (command,) = page.read("langgraph")
    urls = []
    for _ in range(2):
        port = free_port()
        page.start(PROCESSES, command, port, LANGSMITH_TRACING="false", LANGGRAPH_CLI_NO_ANALYTICS="1")
        urls.append(f"http://{HOST}:{port}")
        until(lambda: answers(f"{urls[-1]}/ok"), 240)
    time.sleep(2 * HEARD_S)
    for url in urls:
        body = {"assistant_id": "assistant", "input": {"messages": [{"role": "user", "content": "Good night."}]}}
        answered = httpx.post(f"{url}/runs/wait", json=body, timeout=120).json()["messages"][-1]
        assert answered["content"] == "fine"
        assert answered["response_metadata"]["llm_fallback"]["deployment"] == "other"
        time.sleep(HEARD_S)
    assert len(fake.received("own")) == 1


@on_ray
def test_replicas_of_ray_serve(page: Page, fake: FakeServer) -> None:
    """By the page's own application."""
    page.read("ray-serve")
    port = free_port()
    (page.folder / "run.py").write_text(_RUN_ON_RAY)
    page.start(RAY, f"python run.py {port}", **SYSTEMS["ray-serve"].environment)
    url = f"http://{HOST}:{port}"

    def ask() -> list[dict[str, Any]]:
        return [httpx.get(url, params={"question": "Good night."}, timeout=60).json()]

    until(lambda: answers(f"{url}/-/healthz"), 240)
    until_two_have_answered(ask, fake)


_RUN_ON_RAY = """
import sys
import time
import ray
from ray import serve
from app import app
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
serve.run(app)
time.sleep(3600)
"""


@on_ray
def test_rows_of_ray_data_are_answered_by_two_workers(page: Page, fake: FakeServer) -> None:
    """Each builds the model once: of 40 rows two at most meet the wrong key, the first of each."""
    page.read("ray-serve")
    (page.folder / "rows.py").write_text(_ROWS_ON_RAY)
    page._variables = {**page._variables, **SYSTEMS["ray-serve"].environment}
    rows = json.loads(page.run(RAY, "python rows.py").splitlines()[-1])
    assert sorted(row["id"] for row in rows) == list(range(40))
    assert {row["answer"] for row in rows} == {"fine"}
    assert {json.loads(row["llm_fallback"])["deployment"] for row in rows} == {"other"}
    assert {row["error"] for row in rows} == {None}
    assert len({row["worker"] for row in rows}) == 2
    assert len(fake.received("own")) <= 2


_ROWS_ON_RAY = """
import json
import os
import ray
from llm_fallback import Recipe

class Answer:
    def __init__(self, recipe):
        self.answer = recipe.batches(prompt="text", answer="answer", concurrency=1)

    def __call__(self, batch):
        answered = self.answer(batch)
        return {**answered, "worker": [os.getpid()] * len(answered["id"])}

ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20, log_to_driver=False)
rows = [{"id": number, "text": f"{number}?"} for number in range(40)]
recipe = Recipe("llm-fallback.yaml")
answered = ray.data.from_items(rows, override_num_blocks=8).map_batches(
    Answer, fn_constructor_args=[recipe], batch_size=5, concurrency=2, num_cpus=1
)
print(json.dumps(answered.take_all()))
"""
