"""A server that passes requests on to real ones and keeps what came, with secrets removed."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from time import monotonic
from typing import Any

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, web

from llm_fallback.backends import BACKENDS
from llm_fallback.protocol import Frames, Response
from llm_fallback.scrub import STRUCK, Scrubber
from llm_fallback.spec.secrecy import is_secret_name
from llm_fallback.testing.acts import Act, Head, Send, Sever, Wait
from llm_fallback.testing.received import Inbox
from llm_fallback.testing.recordings import End, Recorded, line_of
from llm_fallback.testing.scripts import Script
from llm_fallback.testing.server import FakeServer
from llm_fallback.testing.site import Site
from llm_fallback.testing.wire import encode

_OF_THE_CONNECTION = frozenset(
    {"host", "connection", "content-length", "transfer-encoding", "accept-encoding", "keep-alive", "te", "upgrade"}
)
_KEPT = ("retry-after", "retry-after-ms")
"""Headers that say something to a client; others may name its owner."""


class RecordingServer(FakeServer):
    """Passes every request on to its deployment's real server and writes the exchange to a file."""

    def __init__(self, upstream: Mapping[str, str], file: Path, *, chain: str) -> None:
        super().__init__(dict.fromkeys(upstream), chain=chain)
        self._upstream, self._file = upstream, file

    def _site(self) -> Site:
        self._file.write_text("", encoding="utf-8")
        return RecordingSite(self._scripts, self._inbox, self._upstream, self._keep)

    def _keep(self, line: str) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(line)


class RecordingSite(Site):
    """A site whose answers are somebody else's."""

    def __init__(
        self,
        scripts: Mapping[str, Script],
        inbox: Inbox,
        upstream: Mapping[str, str],
        keep: Callable[[str], None],
    ) -> None:
        super().__init__(scripts, inbox)
        base_url = BACKENDS["openai-compatible"].base_url
        self._addresses = {name: f"{base_url(address)}/chat/completions" for name, address in upstream.items()}
        self._keep = keep

    async def _acts(
        self, name: str, asked: Mapping[str, Any], number: int, request: web.BaseRequest
    ) -> AsyncGenerator[Act, None]:
        take = Take(bool(asked.get("stream")))
        headers = {key: value for key, value in request.headers.items() if key.lower() not in _OF_THE_CONNECTION}
        try:
            async with (
                ClientSession(timeout=ClientTimeout(total=None)) as session,
                session.post(
                    self._addresses[name], data=encode(asked), headers={**headers, "Accept-Encoding": "identity"}
                ) as response,
            ):
                yield take.begin(response)
                async for data in response.content.iter_any():
                    yield take.add(data)
                    yield Wait(0)
            take.end = "whole"
        except ClientError:
            take.end = "cut"
            yield Sever()
        finally:
            secrets = _secrets(request.headers)
            self._keep(line_of(name, _struck(asked, Scrubber(secrets)), take.without(secrets)))


class Take:
    """One exchange while it is recorded."""

    def __init__(self, stream: bool) -> None:
        self._last = monotonic()
        self._head = Head()
        self._delay_s = 0.0
        self._parts: list[tuple[float, bytes]] = []
        self._length = 0
        self._response = Response(streamed=stream)
        self._frames = Frames(self._response)
        self.end: End = "silence"

    def begin(self, response: ClientResponse) -> Head:
        """The status and headers came."""
        self._delay_s = self._pause()
        self._response.status = response.status
        kept = {name: response.headers[name] for name in _KEPT if name in response.headers}
        self._head = Head(response.status, response.content_type, response.content_length, kept)
        return self._head

    def add(self, data: bytes) -> Send:
        """A piece of the body came."""
        self._parts.append((self._pause(), data))
        self._length += len(data)
        if self._response.streamed:
            self._frames.feed(data)
        if self._is_all:
            # Noted here, because a client that has all may leave before the upstream's connection says that it ended.
            self.end = "whole"
        return Send(data)

    @property
    def _is_all(self) -> bool:
        """Whether what came says of itself that nothing more will."""
        return self._response.said_done or self._length == self._head.length

    def without(self, secrets: Sequence[str]) -> Recorded:
        """What came, with each secret struck out wherever a server repeated it, lengths unchanged."""
        pauses, pieces = [pause for pause, _ in self._parts], [data for _, data in self._parts]
        head = self._head
        return Recorded(
            stream=self._response.streamed,
            delay_s=self._delay_s,
            status=self._response.status,
            content_type=head.content_type,
            headers=head.headers,
            length=head.length,
            parts=tuple(zip(pauses, _blacked(pieces, secrets), strict=True)),
            end=self.end,
        )

    def _pause(self) -> float:
        now = monotonic()
        pause, self._last = now - self._last, now
        return pause


def _secrets(headers: Mapping[str, str]) -> list[str]:
    """What a request carried that nobody else may see, as it stands and without the scheme before it."""
    found = [value for name, value in headers.items() if is_secret_name(name) or name.lower() == "cookie"]
    return sorted(
        {part for value in found for part in (value, value.rpartition(" ")[2]) if part}, key=len, reverse=True
    )


def _blacked(pieces: Iterable[bytes], secrets: Iterable[str]) -> list[bytes]:
    """The pieces with secrets in asterisks, also one that is divided between two of them."""
    lengths = [0, *map(len, pieces := list(pieces))]
    whole = b"".join(pieces)
    for secret in map(str.encode, secrets):
        whole = whole.replace(secret, b"*" * len(secret))
    return [whole[start:end] for start, end in pairwise(accumulate(lengths))]


def _struck(value: Any, scrub: Scrubber) -> Any:
    """Data without known secrets, nor anything under a secret's name."""
    match value:
        case str():
            return scrub(value)
        case Mapping():
            return {key: STRUCK if is_secret_name(key) else _struck(item, scrub) for key, item in value.items()}
        case list():
            return [_struck(item, scrub) for item in value]
    return json.loads(json.dumps(value))
