"""What happened: frozen facts, stated once by the engine and read by everything else.

Metadata, listeners, LangChain's custom events, the ledger and the exporters all read these; none infers again what the
engine knew as it happened. Attempts and records are written as plain data, for a reply's metadata and for a call log,
and read back from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from decimal import Decimal
from typing import Any, Literal, NotRequired, Self

from typing_extensions import TypedDict

Failure = Literal[
    "connection",
    "timeout",
    "first_token_timeout",
    "idle_timeout",
    "server_error",
    "overloaded",
    "rate_limited",
    "quota_exhausted",
    "auth",
    "not_found",
    "context_window",
    "content_policy",
    "bad_request",
    "invalid_response",
    "empty_response",
    "rejected",
    "stream_broken",
    "cancelled",
]
"""How an attempt can fail. docs/failures.md has the consequences of each."""

Outcome = Literal["succeeded", "failed", "cancelled"]
Unanswered = Failure | Literal["budget"]
"""Why a call has no answer: how the chain failed, or a budget that the next attempt might have exceeded."""
SkipReason = Literal["breaker_open", "limit", "context_window", "unsupported", "budget", "zone"]


class AttemptMetadata(TypedDict):
    """An attempt as plain data. None: not known. A key that is `NotRequired` is there only where it tells something."""

    deployment: str
    model: str
    outcome: Outcome
    failure: Failure | None
    status: int | None
    message: str | None
    latency_s: float
    time_to_first_token_s: float | None
    cost_usd: float | None
    request_id: str | None
    cost_estimated: NotRequired[Literal[True]]
    """There only if the usage was estimated."""
    dropped_params: NotRequired[list[str]]
    """There only if any were dropped."""
    dropped_content: NotRequired[list[str]]
    """There only if something of the history was left out."""


class SkipMetadata(TypedDict):
    """A deployment that was passed over, as plain data."""

    deployment: str
    reason: SkipReason
    retry_in_s: float | None


class StitchMetadata(TypedDict):
    """A place at which another deployment went on, as plain data."""

    deployment: str
    at: int


class CallMetadata(TypedDict):
    """The value of `response_metadata["llm_fallback"]`; None: not known."""

    chain: str
    deployment: str | None
    model: str | None
    fell_back: bool
    attempts: list[AttemptMetadata]
    skipped: list[SkipMetadata]
    latency_s: float | None
    """None only of a reply from LangChain's cache."""
    time_to_first_token_s: float | None
    cost_usd: float | None
    cost_estimated: NotRequired[Literal[True]]
    """There only if the usage of any attempt was estimated."""
    stitched: NotRequired[Literal[True]]
    """There, with `stitches`, only if another deployment went on with a reply that broke off."""
    stitches: NotRequired[list[StitchMetadata]]
    cached: NotRequired[Literal[True]]
    """There only if LangChain's cache had the reply."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one attempt, as its server reported them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Input tokens read from the provider's cache; part of `input_tokens`."""
    cache_write_tokens: int = 0
    """Input tokens written to the provider's cache; part of `input_tokens`."""
    reasoning_tokens: int = 0
    """Output tokens spent thinking; part of `output_tokens`."""
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0


_USAGE_COUNTS = tuple(count.name for count in fields(Usage))


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request to one deployment, and its outcome. Times in seconds, cost in US dollars."""

    deployment: str
    model: str
    outcome: Outcome
    failure: Failure | None = None
    status: int | None = None
    """HTTP status, where a server answered with one."""
    message: str | None = None
    latency_s: float = 0.0
    """From its request to its last byte."""
    time_to_first_token_s: float | None = None
    cost_usd: Decimal | None = None
    """None: not known. 0: nothing was billed, or the deployment is declared free."""
    cost_estimated: bool = False
    dropped_params: tuple[str, ...] = ()
    """Sampling parameters that this deployment does not accept, and that were not sent."""
    dropped_content: tuple[str, ...] = ()
    """What of the history this deployment could not get, by the words of who put it there, and that was not sent."""
    request_id: str | None = None
    """The provider's own name of the request, by which it can be asked about it; None if it told none."""
    usage: Usage | None = None
    provider: str = ""
    """The backend that serves the model, or litellm's name of the provider."""
    started_at: float = field(default=0.0, compare=False)
    """Seconds since the call began."""
    paused_s: float = field(default=0.0, compare=False)
    """The part of the latency for which the reader of a stream was away while the next chunk was already there."""

    @property
    def busy_s(self) -> float:
        """Seconds for which it kept its deployment busy."""
        return self.latency_s - self.paused_s

    def __str__(self) -> str:
        if self.outcome != "failed":
            return f"{self.deployment}: {self.outcome} after {self.latency_s:.2f} s"
        status = f" ({self.status})" if self.status else ""
        text = f"{self.deployment}: {self.failure}{status} after {self.latency_s:.2f} s"
        return f"{text}: {self.message}" if self.message else text

    def as_metadata(self) -> AttemptMetadata:
        """Plain data: an item of `response_metadata["llm_fallback"]["attempts"]`."""
        plain: AttemptMetadata = {
            "deployment": self.deployment,
            "model": self.model,
            "outcome": self.outcome,
            "failure": self.failure,
            "status": self.status,
            "message": self.message,
            "latency_s": _in_micros(self.latency_s),
            "time_to_first_token_s": _rounded(self.time_to_first_token_s),
            "cost_usd": _as_float(self.cost_usd),
            "request_id": self.request_id,
        }
        if self.cost_estimated:
            plain["cost_estimated"] = True
        if self.dropped_params:
            plain["dropped_params"] = list(self.dropped_params)
        if self.dropped_content:
            plain["dropped_content"] = list(self.dropped_content)
        return plain

    def as_logged(self) -> dict[str, Any]:
        """Plain data for a call log: with more facts, but without the server's message, which may quote a prompt."""
        plain: dict[str, Any] = {**self.as_metadata()}
        del plain["message"]
        plain["provider"] = self.provider
        plain["started_at_s"] = round(self.started_at, 6)
        if self.paused_s:
            plain["paused_s"] = round(self.paused_s, 6)
        plain["usage"] = None if self.usage is None else asdict(self.usage)
        return plain

    @classmethod
    def from_metadata(cls, plain: Mapping[str, Any]) -> Self:
        """The attempt whose `as_metadata()` or `as_logged()` this is."""
        cost, usage = plain["cost_usd"], plain.get("usage") or {}
        # A later version may have logged further counts.
        counts = {name: usage[name] for name in _USAGE_COUNTS if name in usage}
        return cls(
            deployment=plain["deployment"],
            model=plain["model"],
            outcome=plain["outcome"],
            failure=plain["failure"],
            status=plain["status"],
            message=plain.get("message"),
            latency_s=plain["latency_s"],
            time_to_first_token_s=plain["time_to_first_token_s"],
            cost_usd=None if cost is None else Decimal(str(cost)),
            cost_estimated=plain.get("cost_estimated", False),
            dropped_params=tuple(plain.get("dropped_params", ())),
            dropped_content=tuple(plain.get("dropped_content", ())),
            request_id=plain.get("request_id"),
            usage=Usage(**counts) if counts else None,
            provider=plain.get("provider", ""),
            started_at=plain.get("started_at_s", 0.0),
            paused_s=plain.get("paused_s", 0.0),
        )


_SKIP_TEXTS: dict[SkipReason, str] = {
    "unsupported": "unsupported: the request has images, tools or a response_format that it does not take",
}


@dataclass(frozen=True, slots=True)
class Skip:
    """A deployment passed over without a request."""

    deployment: str
    reason: SkipReason
    retry_in_s: float | None = None
    """Seconds until it could be asked; None where time does not help."""

    def __str__(self) -> str:
        again = f", free in {self.retry_in_s:.1f} s" if self.retry_in_s is not None else ""
        return f"{self.deployment}: skipped, {_SKIP_TEXTS.get(self.reason, self.reason.replace('_', ' '))}{again}"

    def as_metadata(self) -> SkipMetadata:
        """Plain data: an item of `response_metadata["llm_fallback"]["skipped"]`."""
        return {"deployment": self.deployment, "reason": self.reason, "retry_in_s": _rounded(self.retry_in_s)}


@dataclass(frozen=True, slots=True)
class Stitch:
    """A position at which a deployment continued a reply that had broken off."""

    deployment: str
    at: int
    """Characters of text delivered before it."""


@dataclass(frozen=True, slots=True)
class Record:
    """One whole call: which deployments were asked, which answered, how long it took and what it cost."""

    chain: str
    deployment: str | None
    """The deployment that answered; None if none did."""
    model: str | None
    fell_back: bool
    attempts: tuple[Attempt, ...]
    skipped: tuple[Skip, ...]
    latency_s: float
    time_to_first_token_s: float | None
    stitches: tuple[Stitch, ...] = ()

    @property
    def cost_usd(self) -> Decimal | None:
        """The sum over all attempts; None if the cost of any is not known."""
        total = Decimal(0)
        for attempt in self.attempts:
            if attempt.cost_usd is None:
                return None
            total += attempt.cost_usd
        return total

    @property
    def cost_estimated(self) -> bool:
        """Whether the usage of any attempt was estimated."""
        return True in [attempt.cost_estimated for attempt in self.attempts]

    def as_metadata(self) -> CallMetadata:
        """Plain, JSON-serialisable data: the value of `response_metadata["llm_fallback"]`."""
        plain: CallMetadata = {
            "chain": self.chain,
            "deployment": self.deployment,
            "model": self.model,
            "fell_back": self.fell_back,
            "attempts": [attempt.as_metadata() for attempt in self.attempts],
            "skipped": [skip.as_metadata() for skip in self.skipped],
            "latency_s": _in_micros(self.latency_s),
            "time_to_first_token_s": _rounded(self.time_to_first_token_s),
            "cost_usd": _as_float(self.cost_usd),
        }
        if self.cost_estimated:
            plain["cost_estimated"] = True
        if self.stitches:
            plain["stitched"] = True
            plain["stitches"] = [{"deployment": stitch.deployment, "at": stitch.at} for stitch in self.stitches]
        return plain

    @classmethod
    def from_metadata(cls, plain: Mapping[str, Any]) -> Self:
        """The record whose `as_metadata()` this is; its attempts may be those of a call log."""
        return cls(
            chain=plain["chain"],
            deployment=plain["deployment"],
            model=plain["model"],
            fell_back=plain["fell_back"],
            attempts=tuple(Attempt.from_metadata(attempt) for attempt in plain["attempts"]),
            skipped=tuple(Skip(skip["deployment"], skip["reason"], skip["retry_in_s"]) for skip in plain["skipped"]),
            latency_s=plain["latency_s"],
            time_to_first_token_s=plain["time_to_first_token_s"],
            stitches=tuple(Stitch(stitch["deployment"], stitch["at"]) for stitch in plain.get("stitches", ())),
        )


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt failed; later events say what the engine does about it."""

    chain: str
    attempt: Attempt
    name: Literal["llm_fallback.attempt_failed"] = "llm_fallback.attempt_failed"


@dataclass(frozen=True, slots=True)
class FellBack:
    """Another deployment is asked because one failed."""

    chain: str
    source: str
    target: str
    failure: Failure
    name: Literal["llm_fallback.fell_back"] = "llm_fallback.fell_back"


@dataclass(frozen=True, slots=True)
class BreakerOpened:
    """A deployment is taken out of rotation for a while."""

    chain: str
    deployment: str
    failure: Failure
    retry_in_s: float
    source: Literal["requests", "fleet"] = "requests"
    """What opened it: requests of this process, or what other processes of the fleet report. The latter is told by the
    next call here that might have asked the deployment."""
    name: Literal["llm_fallback.breaker_opened"] = "llm_fallback.breaker_opened"


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call has ended: answered, failed or left by its caller."""

    chain: str
    record: Record
    failure: Unanswered | None = None
    """None: answered. `cancelled`: the caller left."""
    streamed: bool = False
    at: float = 0.0
    """When it ended, in seconds since the epoch."""
    run_id: str | None = None
    """LangChain's run, if the call was made through LangChain."""
    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """`config["metadata"]` of the call."""
    root_run_id: str | None = None
    """The outermost run around it, as that of an agent or a graph; otherwise the same as `run_id`."""
    name: Literal["llm_fallback.call_ended"] = "llm_fallback.call_ended"


Event = AttemptFailed | FellBack | BreakerOpened | CallEnded
"""The events that a listener receives."""


def _in_micros(seconds: float) -> float:
    """Rounded to microseconds, finer than clocks are; `round` takes four times as long."""
    return int(seconds * 1e6 + 0.5) / 1e6


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else _in_micros(seconds)


def _as_float(usd: Decimal | None) -> float | None:
    return None if usd is None else float(usd)
