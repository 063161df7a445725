"""Exchanges with real servers, kept in a file and played again.

A file has one JSON object per line: whose exchange it was, what was asked, and what came, piece by piece with the
pauses between. `recorder` writes them, with secrets removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

End = Literal["whole", "cut", "silence"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One exchange, as it came over the wire."""

    stream: bool
    """Whether a stream was asked for."""
    delay_s: float = 0.0
    """Seconds of silence before the first byte."""
    status: int | None = None
    """None: there was no answer."""
    content_type: str = ""
    headers: Mapping[str, str] | None = None
    length: int | None = None
    """Bytes of the body, where the server said so before."""
    parts: tuple[tuple[float, bytes], ...] = ()
    """Each piece of the body, and the seconds of silence before it."""
    end: End = "whole"
    """`silence`: the client left, or the recording ended, while more was to come."""

    def paced(self, pace: float) -> Recorded:
        """With every pause so many times as long; 0: none."""
        parts = tuple((pause * pace, data) for pause, data in self.parts)
        return replace(self, delay_s=self.delay_s * pace, parts=parts)


@dataclass(frozen=True, slots=True)
class Tape:
    """All exchanges with one deployment. They are played once, in their order; further requests are refused."""

    deployment: str
    exchanges: tuple[Recorded, ...]

    @property
    def is_over(self) -> str:
        """What to say to who asks on."""
        count = len(self.exchanges)
        return f"all {count} exchanges recorded with {self.deployment!r} have been played; record them anew"


def recorded(file: str | Path, *, pace: float = 1.0) -> dict[str, Tape]:
    """The scripts of a recording, for `fake_chat_model` or `FakeServer`.

    `pace` scales the pauses: 1 as they were, 0.1 ten times as fast, 0 without any. ValueError for a file that is no
    recording, with the line.
    """
    tapes: dict[str, list[Recorded]] = {}
    for number, line in enumerate(Path(file).read_text(encoding="utf-8").splitlines(), 1):
        try:
            document = json.loads(line)
            tapes.setdefault(document["deployment"], []).append(_exchange(document).paced(pace))
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{file}:{number}: not a recorded exchange ({error})") from None
    return {name: Tape(name, tuple(exchanges)) for name, exchanges in tapes.items()}


def line_of(deployment: str, request: Mapping[str, Any], exchange: Recorded) -> str:
    """An exchange as a line of a file."""
    document = {
        "deployment": deployment,
        "request": request,
        "stream": exchange.stream,
        "delay_s": round(exchange.delay_s, 4),
        "status": exchange.status,
        "content_type": exchange.content_type,
        "headers": exchange.headers or {},
        "length": exchange.length,
        # Bytes that are half a letter stand as lone surrogates, and come back as they were.
        "parts": [[round(pause, 4), data.decode(errors="surrogateescape")] for pause, data in exchange.parts],
        "end": exchange.end,
    }
    return json.dumps(document) + "\n"


def _exchange(document: Mapping[str, Any]) -> Recorded:
    parts = ((float(pause), text.encode(errors="surrogateescape")) for pause, text in document["parts"])
    return Recorded(
        stream=document["stream"],
        delay_s=document["delay_s"],
        status=document["status"],
        content_type=document["content_type"],
        headers=document["headers"],
        length=document["length"],
        parts=tuple(parts),
        end=document["end"],
    )
