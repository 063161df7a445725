"""A Redis or Valkey of a test's own."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import redis

from tests.servers.process import Process, free_port, until


class Redis:
    """A server of one's own, with its files in a folder."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._program, self.folder = program, folder
        self.port = free_port()
        self.url = f"redis://:sesame-of-the-fleet@127.0.0.1:{self.port}/0"
        self.client: Any = redis.Redis.from_url(self.url, protocol=2)
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self.folder]
        command = [self._program, *options, "--requirepass", "sesame-of-the-fleet"]
        self.process = Process(command, {}, self.folder / "log")
        try:
            until(self._answers, 30)
        except TimeoutError:
            self.stop()
            raise

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.RedisError:
            return False

    def stop(self) -> None:
        self.process.signal_all(signal.SIGKILL)
        self.process.end()
