"""An application behind a real server: uvicorn on the loopback, in a thread, with OpenAI's own client to ask it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from llm_fallback.serving import create_app
from llm_fallback.serving.server import listen

KEY = "sk-of-a-caller"


@contextmanager
def served(source: Any, **settings: Any) -> Iterator[str]:
    """The address of an application over a spec or a model."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(source, **settings), log_level="error", ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def in_process(source: Any, client: tuple[str, int] = ("127.0.0.1", 1), **settings: Any) -> Iterator[httpx.AsyncClient]:
    """A client of an application without a socket between them."""
    transport = httpx.ASGITransport(create_app(source, **settings), client=client, raise_app_exceptions=False)
    yield httpx.AsyncClient(transport=transport, base_url="http://served")


def question(text: str = "hi", **words: Any) -> dict[str, Any]:
    """The body of a request."""
    return {"messages": [{"role": "user", "content": text}], **words}
