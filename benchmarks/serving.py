"""A healthy FakeServer in a process of its own, so that a benchmark's CPU time is the client's alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from llm_fallback.testing import FakeServer, Reply

CHUNKS = 50
CHUNK_DELAY_S = 0.001
"""Between two chunks of a stream, so that each comes in a read of its own, as from a model."""
SLOW_S = 60.0
"""Until `/slow/v1` answers: long enough for thousands to ask meanwhile."""
TEXT = "word " * CHUNKS


@contextmanager
def served() -> Iterator[str]:
    """The address of a server that answers `/plain/v1`, streams `/streamed/v1` chunk by chunk, and dawdles at
    `/slow/v1`."""
    command = [sys.executable, "-m", "benchmarks.serving"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            # The server ends with its input.
            process.stdin.close()


def _serve() -> None:
    words = {"chunks": CHUNKS, "usage": (12, CHUNKS)}
    scripts = {
        "plain": Reply(TEXT, **words),
        "streamed": Reply(TEXT, **words, chunk_delay_s=CHUNK_DELAY_S),
        "slow": Reply(TEXT, **words, delay_s=SLOW_S),
    }
    with FakeServer(scripts) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    _serve()
