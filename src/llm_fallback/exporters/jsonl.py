"""A log of calls: one line of JSON for each, for pandas, jq and `llm-fallback report`.

    with CallLog("calls.jsonl") as log:
        model = build_chat_model(spec, listeners=[log])

A line says which deployments were asked, how the attempts ended, how long they took and what they cost. It never has a
message or an API key.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, NotRequired, Self

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from llm_fallback._forks import fork_safe_lock
from llm_fallback.events import Attempt, CallEnded, Event, Outcome, Record
from llm_fallback.ledger.ledger import metadata_keys

_TOKENS = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
_METADATA_PREFIX = "metadata_"


class CallLog:
    """A listener that appends a line for each call that ended. Threads and processes may share the file.

    Each line is one write. It has a column `metadata_<key>` for each key of `config["metadata"]` that `metadata` names,
    and always the tags, the id of LangChain's run and that of the outermost run around it.

    What a full disk cut short stays a line of its own: whoever writes next begins a new one.
    """

    def __init__(self, path: str | os.PathLike[str], *, metadata: str | Sequence[str] = ()) -> None:
        self.path = Path(path)
        self._metadata = metadata_keys(metadata, "metadata")
        self._lock = fork_safe_lock()
        # Unbuffered and appending: one write is one line, also beside other processes.
        self._file = self.path.open("ab", buffering=0)
        self._end = _open_end(self._file, self.path)

    def __call__(self, event: Event) -> None:
        """Append a line if a call ended."""
        if isinstance(event, CallEnded):
            text = json.dumps(row(event, self._metadata), ensure_ascii=False, default=str) + "\n"
            # Half a character, as names in JSON may have, is written as JSON's escape of it.
            line = text.encode("utf-8", "backslashreplace")
            with self._lock:
                if self._end is not None and _is_cut_short(self._end):
                    line = b"\n" + line
                if self._file.write(line) < len(line):
                    raise OSError(errno.ENOSPC, "the disk is full", str(self.path))

    def close(self) -> None:
        """Close the file; calls that end later are not logged."""
        with self._lock:
            self._file.close()
            if self._end is not None:
                self._end.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open_end(file: FileIO, path: Path) -> FileIO | None:
    """The file, to look at its end; None where nobody can, as of a pipe."""
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        return None
    try:
        return path.open("rb", buffering=0)
    except PermissionError:
        return None


def _is_cut_short(end: FileIO) -> bool:
    """Whether the file ends in the middle of a line, because a disk was full or a process was killed."""
    size = os.fstat(end.fileno()).st_size
    if size == 0 or _byte_at(end, size - 1) == b"\n":
        return False
    # Else another process is just writing; caught in the middle of it, the worst is an empty line, which readers skip.
    return os.fstat(end.fileno()).st_size == size


if sys.platform == "win32":

    def _byte_at(file: FileIO, offset: int) -> bytes:
        file.seek(offset)
        return file.read(1)

else:

    def _byte_at(file: FileIO, offset: int) -> bytes:
        # Not by seek and read: a forked child has the same place in the file.
        return os.pread(file.fileno(), 1, offset)


def row(event: CallEnded, metadata: Sequence[str] = ()) -> dict[str, Any]:
    """A call as one row: flat columns, with the attempts and skips nested. Times in seconds, costs in US dollars."""
    record = event.record
    facts = record.as_metadata()
    return {
        "ended_at": datetime.fromtimestamp(event.at, UTC).isoformat(timespec="milliseconds"),
        **{name: facts[name] for name in ("chain", "deployment", "model", "fell_back")},
        "failure": event.failure,
        "streamed": event.streamed,
        "stitched": bool(record.stitches),
        **{name: facts[name] for name in ("latency_s", "time_to_first_token_s", "cost_usd")},
        "cost_estimated": record.cost_estimated,
        **_tokens(record.attempts),
        "run_id": event.run_id,
        "root_run_id": event.root_run_id,
        "tags": list(event.tags),
        **{f"{_METADATA_PREFIX}{key}": event.metadata.get(key) for key in metadata},
        "attempt_count": len(record.attempts),
        "attempts": [attempt.as_logged() for attempt in record.attempts],
        "skipped": facts["skipped"],
        "stitches": facts.get("stitches", []),
    }


def _tokens(attempts: Sequence[Attempt]) -> dict[str, int | None]:
    """Summed over attempts; None if no server reported any."""
    usages = [attempt.usage for attempt in attempts if attempt.usage is not None]
    return {name: sum(getattr(usage, name) for usage in usages) if usages else None for name in _TOKENS}


def read(path: str | os.PathLike[str]) -> Iterator[CallEnded | None]:
    """The calls of a log, in its order; None for a line that cannot be read, such as one that a full disk cut short."""
    with Path(path).open(encoding="utf-8", errors="replace") as lines:
        yield from (_call(line) for line in lines if line.strip())


_Seconds = Annotated[float, Field(ge=0, le=1e9, strict=True, allow_inf_nan=False)]
_Dollars = Annotated[float, Field(ge=0, le=1e12, strict=True, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=10**15, strict=True)]


class _LoggedAttempt(TypedDict):
    deployment: str
    model: str
    outcome: Outcome
    failure: str | None
    status: _Count | None
    latency_s: _Seconds
    time_to_first_token_s: _Seconds | None
    cost_usd: _Dollars | None
    request_id: NotRequired[str | None]
    started_at_s: NotRequired[_Seconds]
    paused_s: NotRequired[_Seconds]
    provider: NotRequired[str]
    usage: NotRequired[dict[str, _Count] | None]


class _LoggedSkip(TypedDict):
    deployment: str
    reason: str
    retry_in_s: _Seconds | None


class _LoggedCall(TypedDict):
    chain: str
    deployment: str | None
    model: str | None
    fell_back: bool
    failure: str | None
    streamed: bool
    latency_s: _Seconds
    time_to_first_token_s: _Seconds | None
    run_id: str | None
    root_run_id: NotRequired[str | None]
    tags: list[str]
    attempts: list[_LoggedAttempt]
    skipped: list[_LoggedSkip]


_LINE = TypeAdapter(_LoggedCall)
"""What a line has to be for its call to be counted; anything besides is let pass, as of later versions."""


def _call(line: str) -> CallEnded | None:
    try:
        plain = json.loads(line)
        _LINE.validate_python(plain)
        record = Record.from_metadata(plain)
        return CallEnded(
            chain=record.chain,
            record=record,
            failure=plain["failure"],
            streamed=plain["streamed"],
            at=datetime.fromisoformat(plain["ended_at"]).timestamp(),
            run_id=plain["run_id"],
            root_run_id=plain.get("root_run_id"),
            tags=tuple(plain["tags"]),
            metadata={
                key.removeprefix(_METADATA_PREFIX): plain[key] for key in plain if key.startswith(_METADATA_PREFIX)
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError):
        return None
