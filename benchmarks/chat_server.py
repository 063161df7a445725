"""A lean server of OpenAI's chat in a process of its own: it fails as in chaos, has a capacity, or bills its requests.

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
    """A server; `chaos SEED`, `capacity SEED` or `billing SEED`."""
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


def billed_tokens(number: int) -> tuple[int, int]:
    """What request `number` is billed for: tokens of the prompt and of the reply."""
    return 20 + number % 7, 5 + number % 11


class Billing:
    """Numbers the requests, and bills each by its number. Of the requests to all deployments but `good` a few fail, and
    in spells many, each in its way: with many alone, breakers would be open and nobody would be asked."""

    WORDS = ("right", "500", "503", "429", "hang", "slow", "cut", "html", "no_finish", "nonsense")
    IN_A_SPELL = (72, 6, 4, 2, 1, 4, 4, 2, 3, 2)
    BETWEEN = (970, 4, 2, 1, 1, 8, 6, 1, 3, 4)
    EVERY, SPELL = 5000, 500
    """Requests."""
    SLOW_S = 0.3

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._received = 0

    def get(self, path: str) -> Any:
        """`received`: how many requests there were."""
        return self._received

    def post(self, connection: Connection, deployment: str, prompt: str) -> None:
        self._received += 1
        number = self._received
        weights = self.IN_A_SPELL if number % self.EVERY < self.SPELL else self.BETWEEN
        word = "right" if deployment == "good" else self._rng.choices(self.WORDS, weights)[0]
        match word:
            case "slow":
                asyncio.get_running_loop().call_later(self.SLOW_S, self._answer, connection, number, "right", prompt)
            case "500" | "503" | "429":
                connection.reply(int(word), {"error": {"message": f"chaos: {word}"}})
            case "html":
                connection.reply(200, "<html>welcome</html>")
            case "right" | "cut" | "no_finish" | "nonsense":
                self._answer(connection, number, word, prompt)

    def _answer(self, connection: Connection, number: int, word: str, prompt: str) -> None:
        text = "nonsense" if word == "nonsense" else answer_to(prompt)
        document = completion(prompt)
        document["choices"][0]["message"]["content"] = text
        tokens = dict(zip(("prompt_tokens", "completion_tokens"), billed_tokens(number), strict=True))
        document["usage"] = tokens
        if not connection.is_streamed:
            if word == "no_finish":
                document["choices"][0]["finish_reason"] = None
            connection.cut() if word == "cut" else connection.reply(200, document, number)
            return
        half = len(text) // 2
        deltas = [{"content": text[:half]}, {"content": text[half:]}]
        frames = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        if word == "cut":
            connection.stream(frames[:1], number, is_whole=False)
            return
        if word != "no_finish":
            frames.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            frames.append({"choices": [], "usage": tokens})
        connection.stream(frames, number)


Behaviour = Chaos | Capacity | Billing
BEHAVIOURS: dict[str, Callable[[int], Behaviour]] = {"chaos": Chaos, "capacity": Capacity, "billing": Billing}


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
        self.is_streamed = False
        """Whether the last request asked for a stream."""

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
            request = json.loads(body[:size])
            self.is_streamed = bool(request.get("stream"))
            self._behaviour.post(self, path.strip("/").partition("/")[0], request["messages"][-1]["content"])

    def reply(self, status: int, content: Any, number: int | None = None) -> None:
        body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        kind = "text/html" if isinstance(content, str) else "application/json"
        name = "" if number is None else f"x-request-id: {number}\r\n"
        head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\n{name}content-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    def stream(self, frames: list[dict[str, Any]], number: int, *, is_whole: bool = True) -> None:
        """Send the frames of a stream at once; one that is not whole ends with its connection."""
        data = b"".join(b"data: " + json.dumps(frame).encode() + b"\n\n" for frame in frames)
        data += b"data: [DONE]\n\n" if is_whole else b""
        head = f"HTTP/1.1 200 x\r\ncontent-type: text/event-stream\r\nx-request-id: {number}\r\n"
        chunks = f"transfer-encoding: chunked\r\n\r\n{len(data):x}\r\n".encode() + data + b"\r\n"
        self._transport.write(head.encode() + chunks + (b"0\r\n\r\n" if is_whole else b""))
        if not is_whole:
            self._transport.close()

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
