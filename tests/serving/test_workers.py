"""Several processes of one server: what their parent does as they die, and as it is told to end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from llm_fallback.serving import server

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows sends no signals")]


def dies_once_it_is_up(files: list[Path], listener: socket.socket, is_up: Connection, parent: int) -> None:
    is_up.send(True)
    raise SystemExit(1)


def one_drains_as_the_other_starts(files: list[Path], listener: socket.socket, is_up: Connection, parent: int) -> None:
    """The first is up and takes its time to end; the second has the parent end all before it is up itself."""
    try:
        files[0].touch(exist_ok=False)
    except FileExistsError:
        os.kill(parent, signal.SIGTERM)
        time.sleep(60)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    is_up.send(True)
    time.sleep(3)


@contextlib.contextmanager
def on_each_restart(do: Callable[[], None]) -> Iterator[None]:
    """Do something whenever the parent says that it starts a process again, before it does."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "is started again" in record.getMessage():
                do()

    handler = Handler()
    server.logger.addHandler(handler)
    try:
        yield
    finally:
        server.logger.removeHandler(handler)


def test_told_to_end_while_one_is_dead_it_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would answer behind a door that is closed."""
    monkeypatch.setattr(server, "_work", dies_once_it_is_up)
    with on_each_restart(lambda: signal.raise_signal(signal.SIGTERM)):
        assert server.serve([], server.listen("127.0.0.1", 0), lambda: None, workers=2) == 0


def test_told_to_end_while_they_start_it_never_says_that_it_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those that are up already only answer what was begun."""
    monkeypatch.setattr(server, "_work", one_drains_as_the_other_starts)
    said: list[str] = []
    files = [tmp_path / "first"]
    assert server.serve(files, server.listen("127.0.0.1", 0), lambda: said.append("serving"), workers=2) == 0
    assert said == []


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="nowhere to count")
def test_of_those_that_died_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose processes die now and then runs for months."""
    monkeypatch.setattr(server, "_work", dies_once_it_is_up)
    monkeypatch.setattr(server, "_RESTART_S", 0)
    held: list[int] = []

    def count() -> None:
        held.append(len(os.listdir("/proc/self/fd")))
        if len(held) == 12:
            signal.raise_signal(signal.SIGTERM)

    with on_each_restart(count):
        server.serve([], server.listen("127.0.0.1", 0), lambda: None, workers=2)
    assert max(held[6:]) <= max(held[:6])
