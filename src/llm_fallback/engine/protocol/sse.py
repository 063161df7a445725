"""Streams of OpenAI's chat protocol: server-sent events taken apart, and what they say of the reply.

From the first flaw on, the bytes are withheld from whoever reads behind us: an event that does not parse, an error in
a stream that began with 200, a reply that ended by a word which means it was cut.

No I/O and nothing of any library: the adapter reads a real server with it, the fakes their scripts, so that both come
to the same words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from llm_fallback.engine.protocol.faults import LEAST_ERROR, fault_in_body, fault_of_response
from llm_fallback.engine.protocol.finishes import read_finish
from llm_fallback.engine.transport import FINISHES, REFUSED_FINISH, Fault, StreamEnd

_REMEMBERED_BODY = 16_384


@dataclass(slots=True)
class ResponseState:
    """What is known of one response."""

    streamed: bool
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names in lower case, or a mapping that does not mind."""
    body: bytearray = field(default_factory=bytearray)
    """The start of a plain body or an error's, or of what should have been a stream and is none."""
    frames: int = 0
    choices: int = 0
    finish: str | None = None
    usage: dict[str, Any] | None = None
    fault_seen: Fault | None = None
    """What is wrong with the stream, once it was seen; the bytes from there on are withheld."""
    saw_done: bool = False
    refused: bool = False
    """Whether the model refuses in a field of its own, as OpenAI's do."""

    @property
    def has_no_choices(self) -> bool:
        """Whether something came that is no stream of choices."""
        return bool(self.body.strip()) or (self.frames > 0 and self.choices == 0)

    def fault(self) -> Fault | None:
        """What the response itself says went wrong; None if it says nothing of the kind."""
        if self.fault_seen is not None:
            return self.fault_seen
        if self.status is not None and self.status >= LEAST_ERROR:
            return fault_of_response(self.status, self.headers, bytes(self.body))
        return self._error_with_200() if self.body else None

    def _error_with_200(self) -> Fault | None:
        try:
            return fault_in_body(json.loads(self.body))
        except ValueError:
            return None

    def end(self, *, content_came: bool) -> StreamEnd | Fault:
        """What it means that nothing more comes."""
        fault = self.fault()
        if fault is not None:
            return as_stream_fault(fault, content_came=content_came)
        if self.finish is None and self.has_no_choices and not content_came:
            return Fault("invalid_response", "the reply is no stream of choices", self.status)
        return StreamEnd(REFUSED_FINISH if self.refused and self.finish in FINISHES else self.finish)

    def remember(self, data: bytes) -> bytes:
        """Keep the start of a body; the data as they are."""
        self.body += data[: _REMEMBERED_BODY - len(self.body)]
        return data


class SSEParser:
    """Takes a stream apart into its server-sent events, whatever the reads it comes in."""

    def __init__(self, response: ResponseState, take: Callable[[dict[str, Any]], object] = lambda frame: None) -> None:
        self._response, self._take = response, take
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """The part of a read that may pass: all of it, or all before the first flaw."""
        *lines, rest = (self._rest + data).split(b"\n")
        passed = -len(self._rest)
        for line in lines:
            if not self._is_sound(line):
                return data[: max(passed, 0)]
            passed += len(line) + 1
        self._rest = rest
        return data

    def end(self) -> None:
        """Take what came after the last line break, too."""
        rest, self._rest = self._rest, b""
        self._is_sound(rest)

    def _is_sound(self, line: bytes) -> bool:
        if not line.startswith(b"data:"):
            if line.strip() and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                self._response.body += line[:_REMEMBERED_BODY]
            return True
        payload = line[5:].strip()
        if payload == b"[DONE]":
            self._response.saw_done = True
            return True
        return not payload or self._takes(payload)

    def _takes(self, payload: bytes) -> bool:
        response = self._response
        response.frames += 1
        try:
            frame = json.loads(payload)
        except ValueError:
            response.fault_seen = Fault("stream_broken", "a frame of the stream does not parse", 200)
            return False
        if not isinstance(frame, dict):
            return True
        if "error" in frame or frame.get("object") == "error":
            response.fault_seen = fault_in_body(frame)
        if response.fault_seen is not None:
            return False
        response.usage = frame.get("usage") or response.usage
        for choice in frame.get("choices") or ():
            response.choices += 1
            if choice.get("finish_reason"):
                response.finish = read_finish(choice["finish_reason"])
            if (choice.get("delta") or {}).get("refusal"):
                response.refused = True
        if response.finish is not None and response.finish not in FINISHES:
            return False
        self._take(frame)
        return True


def as_stream_fault(fault: Fault, *, content_came: bool) -> Fault:
    """What the fault of a stream is to the caller: after the first content, every early end is the same."""
    if content_came and fault.failure != "content_policy":
        return replace(fault, failure="stream_broken")
    if fault.failure == "stream_broken":
        return replace(fault, failure="invalid_response")
    return fault
