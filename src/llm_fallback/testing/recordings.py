"""Exchanges with real servers, read from a file to be played again.

A file has one JSON object per line: the deployment, the request, and the parts of the response with the pauses between
them. `recorder` writes them, with secrets removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

End = Literal["whole", "cut", "silence"]


@dataclass(frozen=True, slots=True)
class Recorded:
    """One exchange, as it was sent over the network."""

    stream: bool
    """Whether a stream was asked for."""
    delay_s: float = 0.0
    """Seconds of silence before the first byte."""
    status: int | None = None
    """None: there was no answer."""
    content_type: str = ""
    headers: Mapping[str, str] | None = None
    length: int | None = None
    """Bytes of the body, if the server announced them."""
    parts: tuple[tuple[float, bytes], ...] = ()
    """Each piece of the body, and the seconds of silence before it."""
    end: End = "whole"
    """`silence`: the client left, or the recording ended, before the response did."""

    def paced(self, pace: float) -> Recorded:
        """The exchange with every pause `pace` times as long."""
        parts = tuple((pause * pace, data) for pause, data in self.parts)
        return replace(self, delay_s=self.delay_s * pace, parts=parts)


@dataclass(frozen=True, slots=True)
class Tape:
    """All exchanges with one deployment. Each is played once, in their order; further requests are refused."""

    deployment: str
    exchanges: tuple[Recorded, ...]

    @property
    def is_over(self) -> str:
        """The error of a request after the last exchange."""
        count = len(self.exchanges)
        return f"all {count} exchanges recorded with {self.deployment!r} have been played; record them anew"


def recorded(file: str | Path, *, pace: float = 1.0) -> dict[str, Tape]:
    """The scripts of a recording, for `fake_chat_model` or `FakeServer`.

    `pace` scales the pauses: 1 as they were, 0.1 ten times as fast, 0 without any. Raises ValueError, with
    the line, for a file that is not a recording.
    """
    tapes: dict[str, list[Recorded]] = {}
    for number, line in enumerate(Path(file).read_bytes().splitlines(), 1):
        try:
            document = _LINE.validate_python(json.loads(line))
            tapes.setdefault(document["deployment"], []).append(_exchange(document).paced(pace))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{file}:{number}: not a recorded exchange ({where}: {first['msg']})") from None
        except RecursionError:
            raise ValueError(f"{file}:{number}: not a recorded exchange (nested too deep)") from None
        except ValueError as error:
            raise ValueError(f"{file}:{number}: not a recorded exchange ({error})") from None
    return {name: Tape(name, tuple(exchanges)) for name, exchanges in tapes.items()}


def line_of(deployment: str, request: Mapping[str, Any], exchange: Recorded) -> str:
    """An exchange as a line of a recording."""
    document = {
        "deployment": deployment,
        "request": request,
        "stream": exchange.stream,
        "delay_s": round(exchange.delay_s, 4),
        "status": exchange.status,
        "content_type": exchange.content_type,
        "headers": exchange.headers or {},
        "length": exchange.length,
        # A part may end in the middle of a character: its bytes become lone surrogates, and bytes again when read.
        "parts": [[round(pause, 4), data.decode(errors="surrogateescape")] for pause, data in exchange.parts],
        "end": exchange.end,
    }
    return json.dumps(document) + "\n"


_Seconds = Annotated[float, Field(ge=0, le=1e9, strict=True, allow_inf_nan=False)]


class _Line(TypedDict):
    """What a line has to be."""

    deployment: str
    stream: bool
    delay_s: _Seconds
    status: Annotated[int, Field(ge=100, le=999, strict=True)] | None
    content_type: str
    headers: dict[str, str] | None
    length: Annotated[int, Field(ge=0, strict=True)] | None
    parts: list[tuple[_Seconds, str]]
    end: End


_LINE = TypeAdapter(_Line)


def _exchange(line: _Line) -> Recorded:
    return Recorded(
        stream=line["stream"],
        delay_s=line["delay_s"],
        status=line["status"],
        content_type=line["content_type"],
        headers=line["headers"],
        length=line["length"],
        parts=tuple((pause, text.encode(errors="surrogateescape")) for pause, text in line["parts"]),
        end=line["end"],
    )
