"""A store in a file, for the processes of one machine. Its clock is the machine's, which runs since it was started."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import time
from pathlib import Path

from llm_fallback._file_locks import locked
from llm_fallback.fleet.messages import News, Request, Response, StoreError, in_ms
from llm_fallback.fleet.names import FORMAT
from llm_fallback.fleet.state import FleetState


class FileStore:
    """The whole state as JSON, read and written under a lock of the file, in a thread."""

    def __init__(self, path: Path, fleet: str) -> None:
        self._path, self._name = path, f"{FORMAT}:{fleet}"

    async def exchange(self, request: Request) -> Response:
        try:
            return await asyncio.to_thread(self._exchange, request)
        except OSError as error:
            raise StoreError(f"{type(error).__name__}: {error.strerror}") from error

    def _exchange(self, request: Request) -> Response:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        with open(descriptor, "r+b", buffering=0) as file, locked(file):
            fleets = _read(file.read())
            try:
                state = FleetState.from_data(fleets[self._name])
            except (KeyError, TypeError, ValueError, AttributeError):
                state = FleetState()  # What cannot be read is lost; the members have it.
            response = state.exchange(request, in_ms(time.monotonic()))
            written = json.dumps({**fleets, self._name: state.as_data()}).encode()
            file.seek(0)
            if file.write(written) < len(written):
                file.truncate(0)
                raise OSError(errno.ENOSPC, "the disk is full")
            file.truncate(len(written))
            return response

    async def news(self) -> News:
        never: asyncio.Future[News] = asyncio.get_running_loop().create_future()
        return await never

    async def close(self) -> None:
        """Nothing is held between exchanges."""


def _read(written: bytes) -> dict[str, object]:
    try:
        fleets = json.loads(written)
    except ValueError:
        return {}
    return fleets if isinstance(fleets, dict) else {}
