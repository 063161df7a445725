"""A lean server of OpenAI's chat in a process of its own: it fails as in chaos, or has a capacity that can be changed.

FakeServer plays scripts and remembers every request; a million of them want something smaller.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

REFUSAL = 429


@dataclass(frozen=True)
class RunningServer:
    """The server as its benchmark sees it."""

    url: str

    def get(self, path: str) -> Any:
        with urlopen(f"{self.url}/{path}", timeout=60) as response:
            return json.load(response)


@contextmanager
def running(*arguments: str) -> Iterator[RunningServer]:
    """A server; `chaos SEED`, or `capacity SEED`."""
    command = [sys.executable, "-m", "benchmarks.chat_server", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield RunningServer(process.stdout.readline().strip())
        finally:
            process.stdin.close()


def answer_to(prompt: str) -> str:
    """The one right answer."""
    return f"the answer to {prompt}"


class Chaos:
    """Of the deployments `one` and `two` most requests fail, each in its way; `good` answers."""

    WORDS = ("500", "429", "hang", "cut", "html", "no_choices", "right")
    WEIGHTS = (36, 10, 8, 6, 5, 5, 30)

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._asked: set[int] = set()

    def get(self, path: str) -> Any:
        """`asked`: the rows asked for since the last time."""
        asked, self._asked = sorted(self._asked), set()
        return asked

    def post(self, connection: Connection, deployment: str, prompt: str) -> None:
        row = re.search(r"\d+", prompt)
        if row is not None:
            self._asked.add(int(row[0]))
        word = "right" if deployment == "good" else self._rng.choices(self.WORDS, self.WEIGHTS)[0]
        match word:
            case "right":
                connection.reply(200, completion(prompt))
            case "500" | "429":
                connection.reply(int(word), {"error": {"message": f"chaos: {word}"}})
            case "cut":
                connection.cut()
            case "html":
                connection.reply(200, "<html>welcome</html>")
            case "no_choices":
                connection.reply(200, {"id": "x", "object": "chat.completion", "choices": []})


class Capacity:
    """Answers so many requests at a time, each after about `MEAN_S`, and refuses those beyond."""

    MEAN_S, SPREAD = 0.5, 0.3

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._capacity, self._busy = 1, 0
        self._counts = {"answered": 0, "refused": 0}

    def get(self, path: str) -> Any:
        """`counts` since the last time; `capacity/N` sets it, too."""
        word, _, number = path.partition("/")
        if word == "capacity":
            self._capacity = int(number)
        counts, self._counts = self._counts, {"answered": 0, "refused": 0}
        return counts

    def post(self, connection: Connection, deployment: str, prompt: str) -> None:
        if self._busy >= self._capacity:
            self._counts["refused"] += 1
            connection.reply(REFUSAL, {"error": {"message": "too many requests at once"}})
            return
        self._busy += 1
        takes_s = self.MEAN_S * math.exp(self._rng.gauss(0, self.SPREAD) - self.SPREAD**2 / 2)
        asyncio.get_running_loop().call_later(takes_s, self._answer, connection, prompt)

    def _answer(self, connection: Connection, prompt: str) -> None:
        self._busy -= 1
        self._counts["answered"] += 1
        connection.reply(200, completion(prompt))


Behaviour = Chaos | Capacity
BEHAVIOURS: dict[str, Callable[[int], Behaviour]] = {"chaos": Chaos, "capacity": Capacity}


def completion(prompt: str) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": answer_to(prompt)}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
    }


class Connection(asyncio.Protocol):
    """One connection, kept alive; one request at a time."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour, self._received = behaviour, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        size = int(length[1]) if length else 0
        if not end or len(body) < size:
            return
        self._received = body[size:]
        method, path, _ = head.partition(b"\r\n")[0].decode().split(" ")
        if method == "GET":
            self.reply(200, self._behaviour.get(path.strip("/")))
        else:
            prompt = json.loads(body[:size])["messages"][-1]["content"]
            self._behaviour.post(self, path.strip("/").partition("/")[0], prompt)

    def reply(self, status: int, content: Any) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        kind = "text/html" if isinstance(content, str) else "application/json"
        head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def cut(self) -> None:
        self._transport.write(b'HTTP/1.1 200 x\r\ncontent-type: application/json\r\ncontent-length: 999\r\n\r\n{"id"')
        self._transport.close()


async def serve(behaviour: Behaviour) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(behaviour), "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    # It ends with its input.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve(BEHAVIOURS[sys.argv[1]](int(sys.argv[2]))))
