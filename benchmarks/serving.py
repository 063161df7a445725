"""A healthy server of every protocol, in a process of its own, so that a benchmark's CPU time is the client's alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from benchmarks.protocols import Answer, answers

CHUNK_DELAY_S = 0.001
"""Between two chunks of a stream, so that each comes in a read of its own, as from a model."""
SLOW_S = 60.0
"""Until `/slow` answers: long enough for thousands to ask meanwhile."""


@contextmanager
def served() -> Iterator[str]:
    """The address of a server that answers in the protocol it is asked in, and dawdles at `/slow`."""
    command = [sys.executable, "-m", "benchmarks.serving"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            # The server ends with its input.
            process.stdin.close()


class Handler:
    """Answers requests with what was written before, so that clients do not wait for it."""

    def __init__(self) -> None:
        self._answers = answers()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.path.startswith("/slow"):
            await asyncio.sleep(SLOW_S)
        ending = next((ending for ending in self._answers if request.path.endswith(ending)), None)
        if ending is None:
            return web.Response(status=404)
        answer = self._answers[ending]
        is_streamed = "stream" in ending.lower() or b'"stream":true' in body.replace(b" ", b"")
        if is_streamed:
            return await self._stream(request, answer)
        return web.Response(body=answer.plain, content_type="application/json")

    async def _stream(self, request: web.BaseRequest, answer: Answer) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": answer.kind})
        await response.prepare(request)
        for frame in answer.frames:
            await response.write(frame)
            await asyncio.sleep(CHUNK_DELAY_S)
        await response.write_eof()
        return response


async def _serve() -> None:
    runner = web.ServerRunner(web.Server(Handler()))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(f"http://{host}:{port}", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_serve())
